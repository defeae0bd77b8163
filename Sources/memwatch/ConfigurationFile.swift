// ~/.config/memwatch/config (XDG Base Directory Specification): read before rights are given up.

import FoundationEssentials
import MemwatchTerminal

enum ConfigurationFile {
  /// The settings in the file; empty if there is no file.
  static let settings = contents.configuration

  /// A message about errors in the file; nil: none.
  static let notice: String? = contents.errors.first.map {
    let others = contents.errors.count - 1
    return "config file, \($0): invalid setting" + (others > 0 ? "; \(others) more" : "")
  }

  private static let path: String? = {
    let environment = ProcessInfo.processInfo.environment
    if let base = environment["XDG_CONFIG_HOME"], base.hasPrefix("/") {
      return base + "/memwatch/config"
    }
    guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
    return home + "/.config/memwatch/config"
  }()

  /// Saves settings in the file, which need not exist; other lines stay. Returns 0, or an error number.
  ///
  /// Runs in the process that keeps its privileges.
  static func save(_ settings: SavedSettings) -> Int32 {
    guard let path else { return 2 }  // ENOENT
    let files = FileManager.default
    // A link stays; the file that it leads to is replaced.
    let target = (try? files.destinationOfSymbolicLink(atPath: path)).map { link in
      link.hasPrefix("/") ? link : directory(of: path) + "/" + link
    }
    let file = target ?? path
    var text = ""
    if files.fileExists(atPath: file) {
      guard let found = try? files.attributesOfItem(atPath: file),
        found[.type] as? FileAttributeType == .typeRegular,
        let old = try? String(contentsOfFile: file, encoding: .utf8)
      else { return 5 }  // EIO: what cannot be read is not replaced
      text = old
    }
    do {
      try files.createDirectory(
        atPath: directory(of: file), withIntermediateDirectories: true,
        attributes: [.posixPermissions: 0o700])
    } catch { return 20 }  // ENOTDIR
    do {
      try settings.merged(into: text).write(toFile: file, atomically: true, encoding: .utf8)
      return 0
    } catch { return 13 }  // EACCES
  }

  private static let contents: (configuration: Configuration, errors: [String]) = {
    // Follow links, but never open a pipe, which would block.
    guard let path, let found = try? FileManager.default.attributesOfItem(atPath: path),
      [.typeRegular, .typeSymbolicLink].contains(found[.type] as? FileAttributeType),
      (found[.size] as? any BinaryInteger).map({ UInt64(clamping: $0) }) ?? .max <= 65536,
      let text = try? String(contentsOfFile: path, encoding: .utf8)
    else { return (Configuration(), []) }
    return Configuration.parse(text) { Time(argument: $0)?.milliseconds }
  }()
}

// ~/.config/memwatch/config (XDG Base Directory Specification): read before rights are given up.

import FoundationEssentials
import MemwatchTerminal

enum ConfigurationFile {
  /// The settings in the file; empty if there is no file.
  static let settings = contents.configuration

  /// A message about errors in the file; nil: none.
  static let notice: String? = contents.errors.first.map {
    let others = contents.errors.count - 1
    return "config file, \($0): not understood" + (others > 0 ? "; \(others) more" : "")
  }

  private static let path: String? = {
    let environment = ProcessInfo.processInfo.environment
    if let base = environment["XDG_CONFIG_HOME"], base.hasPrefix("/") {
      return base + "/memwatch/config"
    }
    guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
    return home + "/.config/memwatch/config"
  }()

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

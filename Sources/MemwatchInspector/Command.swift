// A command that memwatch starts and watches.

import EnclaveSystem
import MemwatchSystem

package struct CommandFailure: Error {
  package var code: Int32
  package var message: String
}

/// A running command with its log. One thread at a time.
package final class Command {
  private let child: ChildProcess
  private var isWatched: (status: () -> Int32?, hasDescendants: () -> Bool)?
  package let logPath: String?
  package var pid: Int32 { child.pid }
  package var isLogged: Bool { logPath != nil }
  package var status: Int32? { isWatched?.status() ?? child.status }

  /// This process is not its parent: another one tells how it stands.
  package func isWatchedBy(status: @escaping () -> Int32?, hasDescendants: @escaping () -> Bool) {
    isWatched = (status, hasDescendants)
  }

  private init(child: ChildProcess, logPath: String?) {
    self.child = child
    self.logPath = logPath
  }

  /// Starts a command. `publishing`: with ENCLAVE_STATS=1. `logged`: its input is /dev/null, its
  /// output a file.
  package static func start(
    _ arguments: [String], publishing: Bool, logged: Bool, name: String,
    environment: [String: String] = [:]
  ) throws(CommandFailure) -> Command {
    var environment = environment
    if publishing { environment["ENCLAVE_STATS"] = "1" }
    var log: OpenFile?
    var path: String?
    if logged {
      let directory = ProcessFacts.environment("TMPDIR") ?? "/tmp"
      let name =
        "\(directory)/memwatch-\(name)-\(ProcessFacts.pid)-\(ProcessFacts.realMilliseconds).log"
      do { log = try OpenFile(creating: name) } catch {
        throw CommandFailure(code: 125, message: "the log of the command: \(error)")
      }
      path = name
    }
    do {
      let child = try ChildProcess.start(arguments, environment: environment, log: log)
      return Command(child: child, logPath: path)
    } catch {
      if let path { Files.remove(path) }
      // As env(1) does: 127 not found, 126 cannot be run, 125 memwatch's own failure.
      let code: Int32 = error.isMissing ? 127 : error.isDenied ? 126 : 125
      throw CommandFailure(code: code, message: "\(error)")
    }
  }

  /// Waits until the command or a descendant of it publishes; nil: it ended first, or did not in
  /// time.
  package func waitForPublisher(milliseconds: UInt64) -> Inspector? {
    let deadline = ProcessFacts.bootMilliseconds + milliseconds
    while ProcessFacts.bootMilliseconds < deadline {
      if let inspector = publisher() { return inspector }
      if !mayPublish { return nil }
      ProcessFacts.pause(milliseconds: 20)
    }
    return nil
  }

  /// The publisher that the command or a descendant of it is; nil: none is seen now.
  package func publisher() -> Inspector? {
    for publisher in Discovery.run().publishers where publisher.state.isHeld {
      guard let pid = publisher.pid, isDescendant(pid),
        let inspector = try? Inspector.attach(to: publisher)
      else { continue }
      return inspector
    }
    return nil
  }

  /// Whether anything of it still runs.
  package var mayPublish: Bool { poll() == nil || hasDescendants }

  /// Whether a process is the command or comes from it: by its parents, or by the process group
  /// where the command has one of its own.
  private func isDescendant(_ pid: Int32) -> Bool {
    var at = pid
    for _ in 0..<64 {
      if at == child.pid { return true }
      guard let stat = Inspected.process(.stat, pid: at).bytes(limit: 4096).flatMap(ProcStat.init)
      else { return false }
      if isLogged, stat.group == child.pid { return true }
      if stat.parent <= 1 { return false }
      at = stat.parent
    }
    return false
  }

  /// A daemon that the command left behind in its process group.
  package var hasDescendants: Bool {
    isLogged && (isWatched?.hasDescendants() ?? ChildProcess.groupExists(child.pid))
  }

  /// Its status once it has ended.
  package func poll() -> Int32? {
    if let isWatched { return isWatched.status() }
    return child.poll() ? child.status : nil
  }
  package func waitForEnd() {
    guard isWatched != nil else { return child.waitForEnd() }
    while poll() == nil { ProcessFacts.pause(milliseconds: 20) }
  }

  /// Ends it: SIGTERM, and SIGKILL when it has not ended within two seconds.
  package func end() {
    child.signal(15, group: isLogged)
    let deadline = ProcessFacts.bootMilliseconds + 2000
    while !child.poll(), ProcessFacts.bootMilliseconds < deadline {
      ProcessFacts.pause(milliseconds: 10)
    }
    child.signal(9, group: isLogged)
    child.waitForEnd()
  }

  /// The last lines of the log, made safe.
  package func tail(_ count: Int) -> [String] {
    guard let logPath, let file = try? Inspected.named(logPath).open(),
      let size = try? file.status().size
    else { return [] }
    let wanted = min(Int(clamping: size), 1 << 20)
    var bytes = [UInt8](repeating: 0, count: wanted)
    var got = 0
    unsafe bytes.withUnsafeMutableBytes { raw in
      got = unsafe (try? file.read(into: raw, at: Int(clamping: size) - wanted)) ?? 0
    }
    let lines = bytes[..<got].split(
      separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false
    ).suffix(count + 1)
    var texts = lines.map { SafeText(Array($0), limit: 4096).string }
    if texts.last == "" { texts.removeLast() }
    return Array(texts.suffix(count))
  }

  package func removeLog() { if let logPath { Files.remove(logPath) } }
}

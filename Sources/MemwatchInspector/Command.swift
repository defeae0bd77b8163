// A command that memwatch starts and watches.

import EnclaveSystem
package import MemwatchSystem

package struct CommandFailure: Error {
  package var code: Int32
  package var message: String
}

/// A command and its output. One thread at a time.
package final class Command {
  private let child: ChildProcess
  private var statusSource: (status: () -> Int32?, hasDescendants: () -> Bool)?
  private let output: Destination
  package var pid: Int32 { child.pid }
  package var status: Int32? { statusSource?.status() ?? child.status }

  /// Sets where to get the status if this process is not the command's parent.
  package func setStatusSource(status: @escaping () -> Int32?, hasDescendants: @escaping () -> Bool)
  {
    statusSource = (status, hasDescendants)
  }

  private enum Destination {
    /// It shares this process's terminal.
    case shared
    case log(String)
    /// There is no log, because a command that reached this RLIMIT_FSIZE would be killed.
    case discarded(limit: UInt64)
  }

  private init(child: ChildProcess, output: Destination) {
    (self.child, self.output) = (child, output)
  }

  package var logPath: String? { if case .log(let path) = output { path } else { nil } }

  /// Whether it has no part in this process's terminal.
  package var isDetached: Bool { if case .shared = output { false } else { true } }

  /// Starts a command. `publishing` sets ENCLAVE_STATS=1. `detached` connects its input to
  /// /dev/null and its output to a log file, or to nothing under RLIMIT_FSIZE.
  package static func start(
    _ arguments: [String], publishing: Bool, detached: Bool, name: String,
    environment: [String: String] = [:]
  ) throws(CommandFailure) -> Command {
    var environment = environment
    if publishing { environment["ENCLAVE_STATS"] = "1" }
    var log: OpenFile?
    var output = Destination.shared
    if detached, let limit = ChildProcess.fileSizeLimit {
      output = .discarded(limit: limit)
    } else if detached {
      let directory = ProcessFacts.environment("TMPDIR") ?? "/tmp"
      let name =
        "\(directory)/memwatch-\(name)-\(ProcessFacts.pid)-\(ProcessFacts.realMilliseconds).log"
      do { log = try OpenFile(creating: name) } catch {
        throw CommandFailure(code: 125, message: "cannot create the command's log: \(error)")
      }
      output = .log(name)
    }
    do {
      let child = try ChildProcess.start(
        arguments, environment: environment, isDetached: detached, log: log)
      return Command(child: child, output: output)
    } catch {
      if case .log(let path) = output { Files.remove(path) }
      // As env(1): 127 not found, 126 not executable, 125 memwatch's own failure.
      let code: Int32 = error.isMissing ? 127 : error.isDenied ? 126 : 125
      throw CommandFailure(code: code, message: "\(error)")
    }
  }

  /// Waits until the command or a descendant publishes; nil: it ended first, or the time is up.
  package func waitForPublisher(milliseconds: UInt64) -> Inspector? {
    let deadline = ProcessFacts.bootMilliseconds + milliseconds
    while ProcessFacts.bootMilliseconds < deadline {
      if let inspector = publisher() { return inspector }
      if !mayPublish { return nil }
      ProcessFacts.pause(milliseconds: 20)
    }
    return nil
  }

  /// Attaches to the command or a descendant that publishes; nil: none does now.
  package func publisher() -> Inspector? {
    for publisher in Discovery.run().publishers where publisher.state.isHeld {
      guard let pid = publisher.pid, isDescendant(pid),
        let inspector = try? Inspector.attach(to: publisher)
      else { continue }
      return inspector
    }
    return nil
  }

  /// Whether the command or a descendant still runs.
  package var mayPublish: Bool { poll() == nil || hasDescendants }

  /// Whether a process is the command or its descendant: by its ancestors, or by the command's own
  /// process group.
  private func isDescendant(_ pid: Int32) -> Bool {
    var at = pid
    for _ in 0..<64 {
      if at == child.pid { return true }
      guard
        let stat = InspectedFile.process(.stat, pid: at).bytes(limit: 4096).flatMap(ProcStat.init)
      else { return false }
      if isDetached, stat.group == child.pid { return true }
      if stat.parent <= 1 { return false }
      at = stat.parent
    }
    return false
  }

  /// Whether processes remain in the command's group, such as a daemon.
  package var hasDescendants: Bool {
    isDetached && (statusSource?.hasDescendants() ?? ChildProcess.groupExists(child.pid))
  }

  /// The exit status once it has ended.
  package func poll() -> Int32? {
    if let statusSource { return statusSource.status() }
    return child.poll() ? child.status : nil
  }

  /// Takes a signal that memwatch received while it is only the wrapper of this command: the command
  /// decides how both end. Returns false if the signal is for memwatch: the command has ended.
  package func take(_ signal: ReceivedSignal) -> Bool {
    // SIGXCPU is about memwatch's own processor time.
    guard signal.number != 24, !child.poll() else { return false }
    // A terminal signals the command itself; what the command sends is not for it.
    if signal.isFromProcess, signal.sender != pid { child.signal(signal.number, group: false) }
    if signal.number == 20 {  // SIGTSTP
      ForkedProcess.stopThisProcess()
      child.signal(18, group: false)
    }
    return true
  }

  /// Waits until the command has ended. Its parent forwards signals from other processes to it,
  /// because the broker has blocked them.
  package func waitForEnd() {
    if statusSource != nil {
      while poll() == nil { ProcessFacts.pause(milliseconds: 20) }
    } else if let signals = try? SignalWatch() {
      child.waitForEnd(passing: signals)
    } else {
      child.waitForEnd()
    }
  }

  /// Ends the command: SIGTERM, then SIGKILL after two seconds.
  package func end() {
    child.signal(15, group: isDetached)
    let deadline = ProcessFacts.bootMilliseconds + 2000
    while !child.poll(), ProcessFacts.bootMilliseconds < deadline {
      ProcessFacts.pause(milliseconds: 10)
    }
    child.signal(9, group: isDetached)
    child.waitForEnd()
  }

  /// The last lines of the log, sanitised.
  package func tail(_ count: Int) -> [String] {
    if case .discarded(let limit) = output {
      return ["not kept: RLIMIT_FSIZE (ulimit -f) of \(limit) bytes would end the command"]
    }
    guard let logPath, let file = try? InspectedFile.named(logPath).open(),
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

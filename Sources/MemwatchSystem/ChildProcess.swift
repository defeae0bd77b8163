// Starts a command and waits for its end.

internal import CMemwatchSystem
package import EnclaveSystem

/// A command that this process started. One thread at a time.
package final class ChildProcess {
  package let pid: Int32
  /// The exit status once it has ended; 128 + n if signal n ended it.
  package private(set) var status: Int32?

  private init(pid: Int32) { self.pid = pid }

  /// Starts a command (posix_spawn(3)).
  ///
  /// - Parameters:
  ///   - arguments: the program (searched in PATH) and its arguments.
  ///   - environment: variables added to this process's own.
  ///   - isDetached: it has a process group of its own, and /dev/null as its input. Otherwise it
  ///     shares this process's streams.
  ///   - log: receives the output of a detached command. nil: /dev/null does.
  package static func start(
    _ arguments: [String], environment: [String: String], isDetached: Bool,
    log: borrowing OpenFile? = nil
  ) throws(FileFailure) -> ChildProcess {
    let input =
      isDetached ? try OpenFile(reading: "/dev/null", followingLinks: true) : nil
    let output: Int32
    switch log {
    case .some(let file): output = file.descriptor
    case .none: output = -1
    }
    var variables: [String] = []
    var next = unsafe cms_environment()
    while let at = unsafe next, let text = unsafe at.pointee {
      let variable = unsafe String(cString: text)
      let name = variable.prefix { $0 != "=" }
      if environment[String(name)] == nil { variables.append(variable) }
      unsafe next = at + 1
    }
    variables += environment.map { "\($0.key)=\($0.value)" }
    let inputDescriptor: Int32
    switch input {
    case .some(let file): inputDescriptor = file.descriptor
    case .none: inputDescriptor = -1
    }
    let result = unsafe withCStrings(arguments) { argv in
      unsafe withCStrings(variables) { envp in
        unsafe cms_spawn(argv[0], argv, envp, inputDescriptor, output, isDetached, true)
      }
    }
    guard result >= 0 else {
      throw FileFailure(function: "start", path: arguments[0], errno: Int32(-result))
    }
    return ChildProcess(pid: Int32(result))
  }

  /// Whether a program's file has capabilities (capabilities(7)).
  package static func gainsCapabilities(_ path: String) -> Bool {
    unsafe cms_has_capabilities(path) > 0
  }

  /// Whether the command has ended; reaps it then. Does not block.
  package func poll() -> Bool { reap(block: false) }
  /// Waits until the command has ended, and reaps it.
  package func waitForEnd() { _ = reap(block: true) }

  /// Waits until the command has ended, and reaps it. Meanwhile signals that other processes send
  /// to this one go to the command (a terminal signals both itself), and this process stops when
  /// job control stops the command. For a command that is not detached.
  package func waitForEnd(passing signals: borrowing SignalWatch) {
    let process = ForkedProcess(pid: pid)
    while !poll() {
      // SIGCHLD ends the wait, too; the time limit is for a change between the look and the wait.
      _ = signals.wait(for: nil, milliseconds: 1000)
      _ = signals.forwardSignals(to: process)
      switch process.change() {
      // SIGTSTP, SIGTTIN or SIGTTOU: the shell waits for this process to stop, too. Who stops the
      // command by SIGSTOP may continue the command alone.
      case .stopped(20...22): process.stopWithChild()
      case .stopped: break
      case .exited(let code): status = code
      case .killed(let signal): status = 128 + signal
      case .none: break
      }
    }
  }

  private func reap(block: Bool) -> Bool {
    if status != nil { return true }
    var code: Int32 = 0
    let result = unsafe cms_wait(pid, block, &code)
    if result == 1 { status = code }
    if result < 0 { status = 127 }
    return status != nil
  }

  /// Whether a process group still has a process.
  package static func groupExists(_ group: Int32) -> Bool { cms_kill(-group, 0) == 0 }

  /// From now on a write past RLIMIT_FSIZE fails with EFBIG instead of raising SIGXFSZ; children
  /// get the default action back.
  package static func ignoreFileLimit() { cms_ignore_file_limit() }

  /// RLIMIT_FSIZE of this process and its children, in bytes; nil: none.
  package static var fileSizeLimit: UInt64? {
    let limit = cms_soft_limit(CMS_LIMIT_FILE_SIZE)
    return limit == .max ? nil : limit
  }

  /// The memory limits of this process and its children, in words; nil: none. Explains a child that
  /// crashed for want of memory.
  package static var memoryLimits: String? {
    let limits = [
      (CMS_LIMIT_ADDRESSES, "RLIMIT_AS (ulimit -v)"), (CMS_LIMIT_DATA, "RLIMIT_DATA (ulimit -d)"),
      (CMS_LIMIT_STACK, "RLIMIT_STACK (ulimit -s)"),
    ]
    let found = limits.compactMap { which, name in
      let soft = cms_soft_limit(which)
      // A stack limit always exists; the usual 8 MiB are enough.
      return soft == .max || which == CMS_LIMIT_STACK && soft >= 1 << 20
        ? nil : "\(name) is \(soft) bytes"
    }
    return found.isEmpty ? nil : found.joined(separator: ", ")
  }

  /// Sends a signal to the command, or to its process group.
  package func signal(_ number: Int32, group: Bool) {
    guard status == nil else { return }
    _ = cms_kill(group ? -pid : pid, number)
  }
}

private func withCStrings<R>(
  _ strings: [String], _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> R
) -> R {
  let array = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(
    capacity: strings.count + 1)
  defer { unsafe array.deallocate() }
  for (index, string) in strings.enumerated() {
    let bytes = Array(string.utf8CString)
    let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
    unsafe copy.initialize(from: bytes, count: bytes.count)
    unsafe array[index] = unsafe copy
  }
  unsafe array[strings.count] = nil
  defer { for index in strings.indices { unsafe array[index]?.deallocate() } }
  return unsafe body(array)
}

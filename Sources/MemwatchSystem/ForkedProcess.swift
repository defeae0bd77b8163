// A forked child, and the signals that its parent forwards to it.

internal import CMemwatchSystem
package import EnclaveSystem

/// A child made by fork(2).
package struct ForkedProcess: Sendable {
  package let pid: Int32

  /// A change of the child's state (waitpid(2)).
  package enum Change: Equatable, Sendable {
    case none
    case stopped(signal: Int32)
    case exited(Int32)
    case killed(signal: Int32)
  }

  /// Forks this process, which must have one thread. Returns nil in the child. The child gets
  /// `signal` when its parent dies (prctl(2), PR_SET_PDEATHSIG).
  ///
  /// - Parameter keepsSignalsBlocked: signals that ask a process to end stay blocked in the child, if
  ///   they are.
  package static func fork(
    endingWithParentBy signal: Int32, keepsSignalsBlocked: Bool = false
  ) throws(FileFailure) -> ForkedProcess? {
    let parent = ProcessFacts.pid
    let child = cms_fork()
    guard child >= 0 else {
      throw FileFailure(function: "fork", path: "this process", errno: Int32(-child))
    }
    if child == 0 {
      cms_take_signals(!keepsSignalsBlocked)
      _ = cms_signal_at_parents_death(signal)
      if cms_parent() != parent { cms_die_by(signal) }
      return nil
    }
    return ForkedProcess(pid: Int32(child))
  }

  /// The change since the last call. Does not block.
  package func change() -> Change {
    var detail: Int32 = 0
    return switch unsafe cms_child_change(pid, &detail) {
    case CMS_CHILD_EXITED: .exited(detail)
    case CMS_CHILD_KILLED: .killed(signal: detail)
    case CMS_CHILD_STOPPED: .stopped(signal: detail)
    default: .none
    }
  }

  /// Sends it a signal.
  package func signal(_ number: Int32) { _ = cms_kill(pid, number) }

  /// Stops this process too, after the child has stopped. When this process continues, it continues
  /// the child.
  package func stopWithChild() {
    cms_stop()
    signal(18)  // SIGCONT
  }

  /// Stops this process (SIGSTOP) until it is continued.
  package static func stopThisProcess() { cms_stop() }

  /// Ends this process by the signal that ended its child, so that a shell sees it.
  package static func endBySignal(_ signal: Int32) { cms_die_by(signal) }
}

package struct ReceivedSignal: Sendable {
  package let number: Int32
  /// False: the kernel or a terminal sent it.
  package let isFromProcess: Bool
  package let sender: Int32
}

/// The signals that a parent receives: SIGCHLD, and those it forwards.
package struct SignalWatch: ~Copyable {
  private let file: OpenFile

  /// Blocks the signals; from now on they arrive here (signalfd(2)).
  package init() throws(FileFailure) {
    let result = cms_watch_signals()
    guard result >= 0 else {
      throw FileFailure(function: "signalfd", path: "", errno: Int32(-result))
    }
    file = OpenFile(adopting: Int32(result), path: "signals")
  }

  /// Blocks them without waiting for them yet.
  package static func block() throws(FileFailure) { _ = try SignalWatch() }

  /// Waits for a message or a signal, with a timeout.
  ///
  /// - Returns: whether a message is waiting.
  package func wait(for socket: borrowing MessageSocket?, milliseconds: Int32) -> Bool {
    let descriptor: Int32
    switch socket {
    case .some(let socket): descriptor = socket.descriptor
    case .none: descriptor = -1
    }
    return cms_wait_for_two(descriptor, file.descriptor, milliseconds) & 1 != 0
  }

  /// Forwards signals sent by other processes. (A terminal signals both processes itself.)
  ///
  /// - Parameter taken: takes a signal; false: it is for the child.
  /// - Returns: the last signal that asks a process to end.
  package func forwardSignals(
    to child: ForkedProcess, unless taken: ((ReceivedSignal) -> Bool)? = nil
  ) -> Int32? {
    var isFromProcess = false
    var sender: Int32 = 0
    var ending: Int32?
    while true {
      let number = unsafe cms_next_signal(file.descriptor, &isFromProcess, &sender)
      if number == 0 { return ending }
      if number == 17 || sender == child.pid { continue }  // SIGCHLD
      let signal = ReceivedSignal(number: number, isFromProcess: isFromProcess, sender: sender)
      if taken?(signal) == true { continue }
      // SIGTSTP (20) asks no process to end.
      if number != 20 { ending = number }
      // SIGXCPU (24) comes from the kernel, for this process's CPU time; it ends both.
      if isFromProcess || number == 24 { child.signal(number) }
    }
  }
}

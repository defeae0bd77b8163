// A copy of this process, and what its parent has to do for it.

internal import CMemwatchSystem
package import EnclaveSystem

/// A child that fork(2) made of this process.
package struct ForkedProcess: Sendable {
  package let pid: Int32

  package enum Change: Equatable, Sendable {
    case none, stopped
    case exited(Int32)
    case killed(signal: Int32)
  }

  /// For processes of one thread. nil in the child, which gets a signal when its parent dies.
  package static func fork(endingWithParentBy signal: Int32) throws(FileFailure) -> ForkedProcess? {
    let parent = ProcessFacts.pid
    let child = cms_fork()
    guard child >= 0 else {
      throw FileFailure(function: "fork", path: "this process", errno: Int32(-child))
    }
    if child == 0 {
      cms_take_ending_signals()
      _ = cms_signal_at_parents_death(signal)
      if cms_parent() != parent { cms_die_by(signal) }
      return nil
    }
    return ForkedProcess(pid: Int32(child))
  }

  /// What became of it since the last look (waitpid(2), not blocking).
  package func change() -> Change {
    var detail: Int32 = 0
    return switch unsafe cms_child_change(pid, &detail) {
    case CMS_CHILD_EXITED: .exited(detail)
    case CMS_CHILD_KILLED: .killed(signal: detail)
    case CMS_CHILD_STOPPED: .stopped
    default: .none
    }
  }

  /// Sends it a signal.
  package func signal(_ number: Int32) { _ = cms_kill(pid, number) }

  /// Stops this process, as the child has stopped, and lets both go on together.
  package func stopAlike() {
    cms_stop()
    signal(18)
  }

  /// Ends this process by the signal that ended the child, so that a shell sees it.
  package static func dieAlike(_ signal: Int32) { cms_die_by(signal) }
}

/// Signals as they come to a parent: SIGCHLD, and those that it passes on.
package struct SignalWatch: ~Copyable {
  private let file: OpenFile

  /// Blocks them from now on (signalfd(2)).
  package init() throws(FileFailure) {
    let result = cms_watch_signals()
    guard result >= 0 else {
      throw FileFailure(function: "signalfd", path: "", errno: Int32(-result))
    }
    file = OpenFile(adopting: Int32(result), path: "signals")
  }

  /// Waits for a message or a signal, at most so long.
  ///
  /// - Returns: whether there is a message.
  package func wait(for socket: borrowing MessageSocket?, milliseconds: Int32) -> Bool {
    let descriptor: Int32
    switch socket {
    case .some(let socket): descriptor = socket.descriptor
    case .none: descriptor = -1
    }
    return cms_wait_for_two(descriptor, file.descriptor, milliseconds) & 1 != 0
  }

  /// Passes signals on that other processes sent here: what a terminal sends, it sends to both.
  ///
  /// - Returns: the last of them that asks a process to end.
  package func passOn(to child: ForkedProcess) -> Int32? {
    var isFromProcess = false
    var sender: Int32 = 0
    var ending: Int32?
    while true {
      let number = unsafe cms_next_signal(file.descriptor, &isFromProcess, &sender)
      if number == 0 { return ending }
      // SIGCHLD and SIGTSTP end nobody.
      if number != 17, number != 20, sender != child.pid { ending = number }
      // A limit of this process' (SIGXCPU) ends both, as a signal from elsewhere does.
      if number != 17, isFromProcess || number == 24, sender != child.pid { child.signal(number) }
    }
  }
}

// Signals keep their effect after the wipe.

import CTestSupport
import Enclave
import Glibc
import TestSupport
import Testing

/// The result of a test's signal handler.
nonisolated(unsafe) private var address = 0
nonisolated(unsafe) private var calls = 0

/// Reads the first byte of a secret without a gate, from a signal handler.
private func seen() -> UInt8 {
  UnsafePointer<UInt8>(bitPattern: address)!.pointee
}

private func handle(_ signal: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = handler
  sigaction(signal, &action, nil)
}

private func ignore(_ signal: Int32) { Glibc.signal(signal, SIG_IGN) }

@Suite struct WipeOnSignalTests {
  static func makeSecret(gate: Arena.Gate = .none) throws -> Arena {
    // The tests' runner may have started this process with signals blocked.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_UNBLOCK, &all, nil)
    let arena = try Arena("keys", .init(lock: .preferred, gate: gate))
    var secret = try arena.allocate(byteCount: 32)
    try secret.withMutableBytes { $0.storeBytes(of: 0x41, toByteOffset: 0, as: UInt8.self) }
    address = Int(bitPattern: unsafe secret.leak())
    return arena
  }

  /// A termination signal and a fault end the process as they would have.
  @Test func signalsKeepTheirEffect() async {
    await #expect(processExitsWith: .signal(SIGTERM)) {
      _ = try WipeOnSignalTests.makeSecret()
      try EmergencyWipe.install()
      raise(SIGTERM)
    }
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      _ = try WipeOnSignalTests.makeSecret()
      try EmergencyWipe.install()
      raise(SIGSEGV)
    }
    // Without an arena there is nothing to wipe.
    await #expect(processExitsWith: .signal(SIGABRT)) {
      try EmergencyWipe.install()
      abort()
    }
  }

  @Test func ignoredSignalsStayIgnored() async {
    await #expect(processExitsWith: .success) {
      let arena = try WipeOnSignalTests.makeSecret()
      ignore(SIGHUP)
      ignore(SIGBUS)
      try EmergencyWipe.install()
      raise(SIGHUP)
      raise(SIGBUS)
      let covered = Set(EmergencyWipe.coveredSignals)
      #expect(seen() == 0x41, "wiped")
      #expect(covered.isDisjoint(with: [SIGHUP, SIGBUS]), "\(covered)")
      #expect(covered.isSuperset(of: [SIGTERM, SIGSEGV]), "\(covered)")
      _ = try arena.allocate(byteCount: 32)
    }
  }

  /// A termination signal that the application handles wipes nothing.
  @Test func handledTerminationSignalsWipeNothing() async {
    await #expect(processExitsWith: .success) {
      let arena = try WipeOnSignalTests.makeSecret()
      handle(SIGTERM) { _ in calls += 1 }
      try EmergencyWipe.install()
      raise(SIGTERM)
      raise(SIGTERM)
      #expect(calls == 2, "\(calls) calls of the application's handler")
      #expect(seen() == 0x41, "wiped")
      _ = try arena.allocate(byteCount: 32)
    }
  }

  /// An application's fault handler runs first. If it resolves the fault, nothing is wiped.
  @Test func handledFaultsWipeNothing() async {
    await #expect(processExitsWith: .success) {
      let arena = try WipeOnSignalTests.makeSecret()
      handle(SIGSEGV) { _ in calls += 1 }
      try EmergencyWipe.install()
      raise(SIGSEGV)
      #expect(calls == 1, "\(calls) calls of the application's handler")
      #expect(seen() == 0x41, "wiped")
      #expect(ct_try_read(1) != 0, "a fault that is survived")
      _ = try arena.allocate(byteCount: 32)
    }
  }

  /// How a child ends whose signal should have ended it.
  enum WrongEnd: Int32 {
    case wipedBeforeTheHandler = 3
    case notReady
    case survived
  }

  /// The memory of a process that a signal ended, inspected while it is stopped at its exit: by
  /// default (`default`; `closed`: under a key or page gate), after the application's handler gave
  /// up, and without the call (the control).
  @Test(arguments: ["default", "closed", "given up", "not installed"], [SIGSEGV, SIGTERM])
  func contentsAreWipedBeforeTheProcessEnds(how: String, signal: Int32) async {
    await #expect(processExitsWith: .success) { [how = how as String, signal = signal as Int32] in
      let isItsOwn = how == "given up" && signal == SIGTERM
      var (up, down): ([Int32], [Int32]) = ([0, 0], [0, 0])
      try #require(pipe(&up) == 0 && pipe(&down) == 0, "pipes")
      let child = ct_fork_at_rest()
      if child == 0 {
        _ = try WipeOnSignalTests.makeSecret(gate: how == "closed" ? .automatic : .none)
        if how == "given up" {
          handle(signal) { number in
            if seen() != 0x41 { _exit(WrongEnd.wipedBeforeTheHandler.rawValue) }
            Glibc.signal(number, SIG_DFL)
          }
        } else {
          Glibc.signal(signal, SIG_DFL)
        }
        var go: UInt8 = 0
        if how != "not installed" { try EmergencyWipe.install() }
        guard how == "closed" || seen() == 0x41, write(up[1], &address, 8) == 8,
          read(down[0], &go, 1) == 1
        else {
          _exit(WrongEnd.notReady.rawValue)
        }
        raise(signal)
        // The application handles termination itself: its handler returned without ending the
        // process, so a second signal ends it.
        if isItsOwn { raise(signal) }
        _exit(WrongEnd.survived.rawValue)
      }
      var place = 0
      try #require(read(up[0], &place, 8) == 8, "the child tells its address")
      try #require(ct_stop_at_exit(child) == 0, "tracing the child")
      try #require(write(down[1], "x", 1) == 1, "telling the child to go on")
      try #require(ct_wait_for_exit(child) == 0, "the child's exit")
      let memory = open("/proc/\(child)/mem", O_RDONLY)
      var byte: UInt8 = 7
      try #require(pread(memory, &byte, 1, off_t(place)) == 1, "reading the child's memory")
      let status = ct_let_go(child)
      let end = WrongEnd(rawValue: status >> 8 & 0xff)
      #expect(status & 0x7f == signal, "status \(status), \(end.map { "\($0)" } ?? "-")")
      #expect(byte == (how == "not installed" || isItsOwn ? 0x41 : 0), "left in memory: \(byte)")
    }
  }

  @Test func signalsThatCannotBeHandledAreAnError() async {
    await #expect(processExitsWith: .success) {
      do {
        try EmergencyWipe.install(signals: [SIGTERM, SIGKILL])
        Issue.record("SIGKILL: no error")
      } catch EnclaveError.system(let failure) {
        #expect(failure.call.function == "sigaction", "\(failure)")
        #expect(failure.errno == EINVAL, "\(failure)")
      }
      let first = EmergencyWipe.coveredSignals
      #expect(first == [SIGTERM], "\(first)")
      try EmergencyWipe.install()
      try EmergencyWipe.install()
      let all = EmergencyWipe.coveredSignals
      #expect(all.contains(SIGABRT), "\(all)")
    }
  }

  /// Signals of a forked child do not affect the parent.
  @Test func aChildsSignalsWipeNothing() async {
    await #expect(processExitsWith: .success) {
      let arena = try WipeOnSignalTests.makeSecret()
      try EmergencyWipe.install()
      let child = ct_fork_at_rest()
      if child == 0 {
        raise(SIGTERM)
        _exit(WrongEnd.survived.rawValue)
      }
      var status: Int32 = 0
      try #require(waitpid(child, &status, 0) == child, "the child's end")
      #expect(status & 0x7f == SIGTERM, "the child ended with status \(status)")
      #expect(seen() == 0x41, "the parent's secret was wiped")
      _ = try arena.allocate(byteCount: 32)
    }
  }
}

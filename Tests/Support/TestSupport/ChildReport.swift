// Reports from a child that a test forks manually.

import CTestSupport
import Glibc

/// Expectations in a forked child. It can neither throw nor use `#expect`, so it writes failures to
/// a pipe, and its parent expects that there are none.
///
///     let report = try ChildReport()
///     let child = report.fork()
///     if child == 0 {
///       report.expect(page.isClosed, "the page is closed")
///       report.end()
///     }
///     #expect(report.failures(of: child) == [])
public struct ChildReport: Sendable {
  private let readEnd: Int32
  private let writeEnd: Int32

  /// Called before the fork.
  public init() throws {
    var ends: [Int32] = [0, 0]
    guard pipe(&ends) == 0 else { throw Failed("pipe: errno \(errno)") }
    (readEnd, writeEnd) = (ends[0], ends[1])
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
  }

  /// Forks while no other thread can hold a lock of the Swift runtime, which the child would
  /// inherit.
  public func fork() -> pid_t { ct_fork_at_rest() }

  // MARK: - In the child

  /// Reports a failure.
  public func fail(_ what: String) {
    let line = Array("\(what)\n".utf8)
    _ = write(writeEnd, line, line.count)
  }

  /// Reports `what` unless the condition is true.
  public func expect(_ condition: Bool, _ what: String) {
    if !condition { fail("not true: \(what)") }
  }

  /// Reports `what` unless the body throws this error.
  public func expect<E: Error & Equatable>(
    throws error: E, _ what: String, by body: () throws -> Void
  ) {
    do {
      try body()
      fail("\(what): no error")
    } catch let other { expect(other as? E == error, "\(what) throws \(error), not \(other)") }
  }

  /// Reports `what` and the error that the body throws.
  public func expectNoError(_ what: String, by body: () throws -> Void) {
    do { try body() } catch { fail("\(what): \(error)") }
  }

  /// Ends the child without any exit handlers.
  public func end() -> Never { _exit(0) }

  // MARK: - In the parent

  /// Waits for the child. Returns its reports, plus how it ended unless it exited normally. A child
  /// that has not ended after a minute is killed.
  public func failures(of child: pid_t) -> [String] {
    guard child > 0 else { return ["no child"] }
    close(writeEnd)
    defer { close(readEnd) }
    var text: [UInt8] = []
    let deadline = ContinuousClock.now + .seconds(60)
    var isOpen = true
    while isOpen, ContinuousClock.now < deadline {
      var wait = pollfd(fd: readEnd, events: Int16(POLLIN), revents: 0)
      guard poll(&wait, 1, 100) > 0 else { continue }
      var bytes = [UInt8](repeating: 0, count: 4096)
      let count = read(readEnd, &bytes, bytes.count)
      if count > 0 { text += bytes[..<count] }
      isOpen = count > 0 || (count < 0 && errno == EINTR)
    }
    if isOpen { kill(child, SIGKILL) }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0, errno == EINTR {}
    var failures = String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
    switch (status & 0x7f, status >> 8 & 0xff) {
    case (0, 0): break
    case (0, let code): failures.append("it ended with status \(code)")
    case (let signal, _): failures.append("it ended by signal \(signal)")
    }
    return failures
  }
}

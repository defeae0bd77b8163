// Demonstrates limits that WhatIsNotErased documents, from another process.

import CTestSupport
import Foundation
import Glibc
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct NotErasedTests {
  private func victim(_ gate: String) throws -> (WipeOnSignalTests.Victim, Masked, UInt) {
    let scratch = try Scratch(onTmpfs: true)
    let pattern = Masked()
    let victim = try WipeOnSignalTests.Victim(Programs.publisher, scratch.path)
    try victim.send("wipe-on-signals")
    try victim.send("arena a alpha slab preferred \(gate)")
    try pattern.send(through: scratch) { try victim.send("receive a 64 \($0)") }
    return (victim, pattern, try #require(try pattern.memory(of: victim.pid).first))
  }

  /// The bytes at an address of another process, by process_vm_readv(2).
  private func read(_ pid: Int32, _ address: UInt) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = ct_read_other(pid, address, &bytes, 64)
    return count == 64 ? bytes : nil
  }

  /// `/proc/PID/mem` reads closed pages. process_vm_readv(2) reads all but those that mprotect(2)
  /// closed.
  @Test(arguments: ["none", "pages"]) func anotherProcessReadsClosedMemory(gate: String) throws {
    let (victim, pattern, place) = try victim(gate)
    defer { victim.kill() }
    let read = read(victim.pid, place)
    #expect((read != nil) == (gate == "none"))
    if let read { #expect(read.withUnsafeBytes { pattern.places(in: $0) } == [0]) }
    #expect(try pattern.memory(of: victim.pid) == [place])
  }

  /// `_exit` and SIGKILL run no code of the process: its pages return to the kernel unwiped.
  @Test func exitsThatRunNoHandlersWipeNothing() throws {
    let (victim, pattern, place) = try victim("pages")
    defer { victim.end() }
    guard ct_stop_at_exit(victim.pid) == 0 else { throw Failed("ptrace: \(errno)") }
    let command = "exit-at-once\n"
    #expect(write(victim.input, command, command.utf8.count) == command.utf8.count)
    guard ct_wait_for_exit(victim.pid) == 0 else { throw Failed("no exit: \(errno)") }
    #expect(try pattern.memory(of: victim.pid) == [place])
    _ = ct_let_go(victim.pid)
  }
}

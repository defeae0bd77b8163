// test-publisher, driven command by command.

import Foundation
import Glibc

public final class Peer {
  public let process: Process
  private let input = Pipe()
  private let output = Pipe()
  private var buffer = Data()
  public var pid: Int32 { process.processIdentifier }

  /// Starts it. `prefix`: a command that starts it (setpriv, prlimit, unshare).
  public init(
    stats: Scratch?, prefix: [String] = [], seed: UInt64? = nil, program: String? = nil,
    environment: [String: String] = [:]
  ) throws {
    // Writing to a publisher that has ended should be an error of write(2), not a signal.
    _ = Glibc.signal(SIGPIPE, SIG_IGN)
    let arguments =
      prefix + [program ?? Programs.publisher] + (seed.map { ["\($0)"] } ?? [])
    process = Launch(arguments, stats: stats, environment: environment).process()
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.runUnblocked()
  }

  deinit { kill() }

  /// Sends a command and returns what comes after `ok`.
  @discardableResult
  public func send(_ command: String) throws -> String {
    try input.fileHandleForWriting.write(contentsOf: Data((command + "\n").utf8))
    let answer = try line()
    guard answer.hasPrefix("ok") else { throw Failed("\(command): \(answer)") }
    return String(answer.dropFirst(3))
  }

  private func line() throws -> String {
    let descriptor = output.fileHandleForReading.fileDescriptor
    while true {
      if let end = buffer.firstIndex(of: 10) {
        let line = String(decoding: buffer[..<end], as: UTF8.self)
        buffer = Data(buffer[(end + 1)...])
        return line
      }
      var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard poll(&wait, 1, 60_000) > 0 else { throw Failed("no answer in 60 s") }
      var bytes = [UInt8](repeating: 0, count: 4096)
      let count = read(descriptor, &bytes, bytes.count)
      guard count > 0 else { throw Failed("test-publisher ended") }
      buffer.append(contentsOf: bytes[..<count])
    }
  }

  /// Sends a command that has no answer.
  public func post(_ command: String) {
    try? input.fileHandleForWriting.write(contentsOf: Data((command + "\n").utf8))
  }

  public func signal(_ number: Int32) { _ = Glibc.kill(pid, number) }

  /// Kills it and waits for its end.
  public func kill() {
    guard process.isRunning else { return }
    _ = Glibc.kill(pid, SIGKILL)
    process.waitUntilExit()
  }

  /// Lets it end normally.
  public func exit() throws {
    try input.fileHandleForWriting.write(contentsOf: Data("exit\n".utf8))
    process.waitUntilExit()
  }
}

// A running sample process.

import Foundation

/// enclave-demo, until `end()`.
public final class SampleProcess {
  public let process: Process
  public var pid: Int32 { process.processIdentifier }

  public init(stats: Scratch, seconds: Int = 60) throws {
    process = Launch([Programs.demo, "--seconds", "\(seconds)"], stats: stats).process()
    process.standardOutput = FileHandle.nullDevice
    try process.runUnblocked()
  }

  public func end() {
    kill(pid, SIGKILL)
    process.waitUntilExit()
  }
}

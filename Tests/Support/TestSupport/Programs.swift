// Finds and runs the programs of this package.

public import Foundation
import Glibc

public struct Failed: Error, CustomStringConvertible {
  public var description: String
  public init(_ description: String) { self.description = description }
}

public enum Programs {
  /// The build folder of SwiftPM, next to the test runner.
  public static let directory: URL = {
    let runner = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    return URL(fileURLWithPath: runner ?? CommandLine.arguments[0]).deletingLastPathComponent()
  }()

  public static func path(_ name: String) -> String { directory.appending(path: name).path }
  public static var memwatch: String { path("memwatch") }
  public static var publisher: String { path("test-publisher") }
  public static var demo: String { path("enclave-demo") }

  /// The package's top folder.
  public static let package: URL = URL(fileURLWithPath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  public static var isRoot: Bool { geteuid() == 0 }

  /// Whether a process can be started with a memlock limit of 1 MiB.
  public static let mayLimitToOneMiB = mayLimit(to: 1 << 20)

  public static func mayLimit(to byteCount: UInt64) -> Bool {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
    return limit.rlim_max >= byteCount
  }

  /// Whether this process, and those that it starts, may lock 1 MiB. (Debian's default is 8 MiB.)
  public static let mayLockOneMiB: Bool = {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &limit)
    return isRoot || limit.rlim_cur >= 1 << 20
  }()
}

/// A temporary directory, which is removed with this value. On tmpfs if it is for pages.
public final class Scratch: Sendable {
  public let path: String
  public init(onTmpfs: Bool = false, mode: Int = 0o700) throws {
    let base = onTmpfs ? "/dev/shm" : NSTemporaryDirectory()
    path = (base as NSString).appendingPathComponent(
      "memwatch-test-\(UInt64.random(in: 0 ... .max))")
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: false,
      attributes: [.posixPermissions: mode])
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }
  public func file(_ name: String) -> String { path + "/" + name }
}

/// Polls until a condition holds. Throws if it does not in time.
public func eventually(
  _ what: String, within seconds: Double = 60, _ condition: () throws -> Bool
) throws {
  let deadline = Date().addingTimeInterval(seconds)
  while true {
    if try condition() { return }
    guard Date() < deadline else { throw Failed("not within \(seconds) s: \(what)") }
    _ = poll(nil, 0, 10)
  }
}

/// Copies a program to run it. (With cp(1): a descriptor of this process would also be inherited by
/// children that other tests fork meanwhile, and execve(2) of the copy would fail with ETXTBSY.)
public func copyProgram(_ source: String, to copy: String) throws {
  let result = try Launch(["cp", source, copy]).run()
  guard result.status == 0 else { throw Failed("cp: \(result.error)") }
}

public struct Ended: Sendable {
  public var status: Int32
  public var output: String
  public var error: String
  public var bytes: Data
}

/// How a program is started.
public struct Launch: Sendable {
  public var arguments: [String]
  public var environment: [String: String]
  public var directory: String?

  public init(_ arguments: [String], stats: Scratch? = nil, environment: [String: String] = [:]) {
    self.arguments = arguments
    self.environment = ProcessInfo.processInfo.environment
    for name in ["ENCLAVE_STATS", "ENCLAVE_STATS_DIR", "XDG_RUNTIME_DIR", "NO_COLOR"] {
      self.environment[name] = nil
    }
    if let stats { self.environment["ENCLAVE_STATS_DIR"] = stats.path }
    // Do not pass on the settings of the user who runs the tests.
    if arguments.first == Programs.memwatch || arguments.first == "tmux" {
      self.environment["XDG_CONFIG_HOME"] = "/dev/null"
    }
    self.environment["SWIFT_BACKTRACE"] = "enable=no"
    for (name, value) in environment { self.environment[name] = value }
  }

  public func process() -> Process {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = arguments
    process.environment = environment
    if let directory { process.currentDirectoryURL = URL(fileURLWithPath: directory) }
    return process
  }

  /// Starts it with pipes for its three standard descriptors.
  public func start() throws -> (process: Process, input: Pipe, output: Pipe, errors: Pipe) {
    let process = process()
    let (input, output, errors) = (Pipe(), Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = errors
    try process.run()
    return (process, input, output, errors)
  }

  /// Runs it until it ends. It is killed after `seconds`.
  public func run(within seconds: Double = 180, input: String? = nil) throws -> Ended {
    let process = process()
    let out = Pipe()
    let err = Pipe()
    process.standardOutput = out
    process.standardError = err
    if let input {
      let pipe = Pipe()
      process.standardInput = pipe
      try process.runUnblocked()
      try pipe.fileHandleForWriting.write(contentsOf: Data(input.utf8))
      try pipe.fileHandleForWriting.close()
    } else {
      process.standardInput = FileHandle.nullDevice
      try process.runUnblocked()
    }
    let pid = process.processIdentifier
    let timer = DispatchWorkItem { kill(pid, SIGKILL) }
    DispatchQueue.global().asyncAfter(deadline: .now() + seconds, execute: timer)
    nonisolated(unsafe) var errors = Data()
    let group = DispatchGroup()
    DispatchQueue.global().async(group: group) {
      errors = err.fileHandleForReading.readDataToEndOfFile()
    }
    let data = out.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    group.wait()
    timer.cancel()
    let status =
      process.terminationReason == .uncaughtSignal
      ? 128 + process.terminationStatus : process.terminationStatus
    return Ended(
      status: status, output: String(decoding: data, as: UTF8.self),
      error: String(decoding: errors, as: UTF8.self), bytes: data)
  }
}

extension Process {
  /// Starts it with no signal blocked, like a shell. Threads of Dispatch and of Swift's concurrency
  /// block nearly all signals, and their children would inherit that: a signal could not end them.
  public func runUnblocked() throws {
    var (none, before) = (sigset_t(), sigset_t())
    sigemptyset(&none)
    pthread_sigmask(SIG_SETMASK, &none, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    try run()
  }
}

/// Parses a text that must be a JSON object.
public func json(_ text: String) throws -> [String: Any] {
  guard let object = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
  else { throw Failed("no JSON object: \(text.prefix(200))") }
  return object
}

/// Runs memwatch until it ends.
public func memwatch(
  _ arguments: String..., stats: Scratch? = nil, environment: [String: String] = [:]
) throws -> Ended {
  try Launch([Programs.memwatch] + arguments, stats: stats, environment: environment).run()
}

/// A command prefix that drops privileges and sets RLIMIT_MEMLOCK. Works as root and as any other
/// user.
public func unprivileged(memlock: Int = 65536) -> [String] {
  let limit = ["prlimit", "--memlock=\(memlock):\(memlock)"]
  guard Programs.isRoot else { return limit }
  return limit + [
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all",
    "--inh-caps=-all",
  ]
}

/// A command prefix that drops CAP_IPC_LOCK, so that the limit applies to root too.
public func withoutLockCapability(soft: Int, hard: Int) -> [String] {
  var own = rlimit()
  getrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &own)
  let hard = Programs.isRoot ? hard : Int(clamping: min(UInt64(hard), UInt64(own.rlim_max)))
  let limit = ["prlimit", "--memlock=\(soft):\(hard)"]
  guard Programs.isRoot else { return limit }
  return limit + ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-all"]
}

/// Reads a file of /proc to its end. (`String(contentsOfFile:)` reads only one page of a file
/// without a size.)
public func procText(_ path: String) throws -> String {
  guard let file = FileHandle(forReadingAtPath: path) else { throw Failed("open \(path)") }
  defer { try? file.close() }
  return String(decoding: try file.readToEnd() ?? Data(), as: UTF8.self)
}

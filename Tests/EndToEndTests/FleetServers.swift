// Debian's node_exporter, Prometheus and Alertmanager on loopback, with the rules and the route of
// Assets/fleet. Processes that a test starts are ended, by pid, with its `FleetServers`.

import Foundation
import Glibc
import TestSupport

final class FleetServers {
  static let programs = [
    "prometheus", "promtool", "prometheus-node-exporter", "prometheus-alertmanager", "amtool",
  ]
  static let areInstalled = programs.allSatisfy {
    FileManager.default.isExecutableFile(atPath: "/usr/bin/\($0)")
  }

  /// A host: the directories of its publishers and of node_exporter, and node_exporter's address.
  final class Host {
    let stats: Scratch
    let files: Scratch
    let address: String
    /// The name of this host's publishers, by default unique on this machine, because root sees all
    /// of them.
    let name: String
    /// The command prefix that runs a program there; empty for this machine.
    private let prefix: [String]
    fileprivate var processes: [Process] = []

    /// A host on this machine with its own loopback address (127.0.0.0/8).
    convenience init(_ address: String = "127.0.0.1") throws {
      try self.init(
        at: "\(address):\(try FleetServers.freePort(address))",
        name: "fleet-\(UInt32.random(in: 0...999_999_999))")
    }

    /// A host of a network.
    convenience init(_ number: Int, of network: FleetNetwork, name: String) throws {
      try self.init(
        at: "\(FleetNetwork.address(number)):9100", name: name, prefix: network.on(number))
    }

    private init(at address: String, name: String, prefix: [String] = []) throws {
      (self.address, self.name, self.prefix) = (address, name, prefix)
      stats = try Scratch(onTmpfs: true)
      files = try Scratch()
      processes.append(
        try FleetServers.start(
          prefix + [
            "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
            "--collector.textfile.directory=\(files.path)", "--web.listen-address=\(self.address)",
          ]))
    }

    /// `memwatch export` as a service.
    func export() throws {
      processes.append(
        try FleetServers.start(
          prefix + [Programs.memwatch, "export", "--textfile", files.path, "-i", "100ms"],
          stats: prefix.isEmpty ? stats : nil))
    }

    /// Starts a publisher with this host's name.
    func publisher(prefix: [String] = [], _ commands: String...) throws -> Peer {
      let program = files.file(name)
      if !FileManager.default.fileExists(atPath: program) {
        try FileManager.default.createSymbolicLink(
          atPath: program, withDestinationPath: Programs.publisher)
      }
      let peer = try Peer(
        stats: self.prefix.isEmpty ? stats : nil, prefix: self.prefix + prefix, program: program)
      for command in ["start plain"] + commands { try peer.send(command) }
      return peer
    }

    deinit { FleetServers.end(processes) }
  }

  private let scratch: Scratch
  private let prometheus: String
  private let alertmanager: String
  /// The command prefix that runs a program where the servers run.
  private let prefix: [String]
  private var processes: [Process] = []

  /// - Parameters:
  ///   - hosts: the hosts to scrape.
  ///   - network: the hosts' network; nil: this machine's.
  init(watching hosts: [Host], in network: FleetNetwork? = nil) throws {
    scratch = try Scratch()
    prefix = network?.center ?? []
    prometheus = "127.0.0.1:\(network == nil ? try Self.freePort("127.0.0.1") : 9090)"
    alertmanager = "127.0.0.1:\(network == nil ? try Self.freePort("127.0.0.1") : 9093)"
    let assets = Programs.package.appending(path: "Assets/fleet")
    // The rules without their `for:` times, which have their own tests.
    try String(contentsOf: assets.appending(path: "rules.yml"), encoding: .utf8)
      .replacing(/for: \w+/, with: "for: 300ms")
      .write(toFile: scratch.file("rules.yml"), atomically: true, encoding: .utf8)
    let targets = hosts.map { "'\($0.address)'" }.joined(separator: ", ")
    try """
    global: {scrape_interval: 300ms, scrape_timeout: 300ms, evaluation_interval: 300ms}
    rule_files: [rules.yml]
    alerting: {alertmanagers: [{static_configs: [{targets: ['\(alertmanager)']}]}]}
    scrape_configs: [{job_name: node, static_configs: [{targets: [\(targets)]}]}]
    """.write(toFile: scratch.file("prometheus.yml"), atomically: true, encoding: .utf8)
    processes.append(
      try Self.start(
        prefix + [
          "prometheus-alertmanager", "--config.file=\(assets.path)/alertmanager.yml",
          "--storage.path=\(scratch.file("alerts"))", "--web.listen-address=\(alertmanager)",
          "--cluster.listen-address=",
        ]))
    processes.append(
      try Self.start(
        prefix + [
          "prometheus", "--config.file=\(scratch.file("prometheus.yml"))",
          "--storage.tsdb.path=\(scratch.file("series"))", "--web.listen-address=\(prometheus)",
        ]))
    try eventually("Prometheus scrapes every host") { try query("up == 1").count == hosts.count }
  }

  deinit { Self.end(processes) }

  /// Evaluates an expression now.
  func query(_ expression: String) throws -> [(labels: [String: String], value: Double)] {
    let ended = try Launch(
      prefix + [
        "promtool", "query", "instant", "-o", "json", "http://\(prometheus)", expression,
      ]
    ).run()
    guard ended.status == 0,
      let list = try JSONSerialization.jsonObject(with: ended.bytes) as? [[String: Any]]
    else { return [] }
    return list.map { series in
      let value = (series["value"] as? [Any])?.last as? String ?? ""
      return (series["metric"] as? [String: String] ?? [:], Double(value) ?? .nan)
    }
  }

  /// The labels of the firing alerts with this name of a host's publishers, from Alertmanager.
  func alerts(_ name: String, of host: Host) throws -> [[String: String]] {
    let ended = try Launch(
      prefix + [
        "amtool", "--alertmanager.url=http://\(alertmanager)", "-o", "json", "alert", "query",
        "alertname=\(name)", "process=\(host.name)",
      ]
    ).run()
    guard ended.status == 0,
      let list = try JSONSerialization.jsonObject(with: ended.bytes) as? [[String: Any]]
    else { return [] }
    return list.compactMap { $0["labels"] as? [String: String] }
  }

  // MARK: - Processes

  private static func start(_ arguments: [String], stats: Scratch? = nil) throws -> Process {
    let process = Launch(arguments, stats: stats).process()
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.runUnblocked()
    return process
  }

  private static func end(_ processes: [Process]) {
    for process in processes where process.isRunning {
      let pid = process.processIdentifier
      // nsenter(1) waits for the process that it started in another pid namespace; keep it.
      let isOutside = process.arguments?.contains("--pid") ?? false
      let children = isOutside ? try? procText("/proc/\(pid)/task/\(pid)/children") : nil
      kill(children?.split(separator: " ").first.flatMap { Int32($0) } ?? pid, SIGKILL)
      process.waitUntilExit()
    }
  }

  /// A free port.
  private static func freePort(_ address: String) throws -> UInt16 {
    let socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(socket) }
    var place = sockaddr_in()
    place.sin_family = sa_family_t(AF_INET)
    inet_pton(AF_INET, address, &place.sin_addr)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let result = withUnsafeMutablePointer(to: &place) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(socket, $0, length) == 0 && getsockname(socket, $0, &length) == 0
      }
    }
    guard result else { throw Failed("no free port of \(address)") }
    return UInt16(bigEndian: place.sin_port)
  }
}

// Debian's node_exporter, Prometheus and Alertmanager on loopback, with the rules and the route of
// Assets/fleet. What a test starts ends with its `FleetServers`, by its pid.

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

  /// A host: its publishers' directory, node_exporter's, and where that listens.
  final class Host {
    let stats: Scratch
    let files: Scratch
    let address: String
    /// What publishers of this host are called: by default unlike any other process here, since root
    /// sees all.
    let name: String
    /// What runs a program there; empty: it is this machine.
    private let prefix: [String]
    fileprivate var processes: [Process] = []

    /// On this machine, at an address of loopback (127.0.0.0/8) of its own.
    convenience init(_ address: String = "127.0.0.1") throws {
      try self.init(
        at: "\(address):\(try FleetServers.freePort(address))",
        name: "fleet-\(UInt32.random(in: 0...999_999_999))")
    }

    /// One of a network's hosts.
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

    /// A publisher that is called after this host.
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
  /// What runs a program where they run.
  private let prefix: [String]
  private var processes: [Process] = []

  /// - Parameters:
  ///   - hosts: what is scraped.
  ///   - network: the one that the hosts are in; nil: this machine's.
  init(watching hosts: [Host], in network: FleetNetwork? = nil) throws {
    scratch = try Scratch()
    prefix = network?.center ?? []
    prometheus = "127.0.0.1:\(network == nil ? try Self.freePort("127.0.0.1") : 9090)"
    alertmanager = "127.0.0.1:\(network == nil ? try Self.freePort("127.0.0.1") : 9093)"
    let assets = Programs.package.appending(path: "Assets/fleet")
    // The rules as they are, but without their patience: it has tests of its own.
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

  /// The series of an expression, now.
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

  /// The labels of the alerts of this name, of a host's publishers, that are firing in Alertmanager.
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
      // What nsenter(1) started in another pid namespace it waits for; without it, perhaps nobody would.
      let isOutside = process.arguments?.contains("--pid") ?? false
      let children = isOutside ? try? procText("/proc/\(pid)/task/\(pid)/children") : nil
      kill(children?.split(separator: " ").first.flatMap { Int32($0) } ?? pid, SIGKILL)
      process.waitUntilExit()
    }
  }

  /// A port that nobody listens on now.
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

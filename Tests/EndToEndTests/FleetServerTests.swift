// From a publisher to an alert and back, through real servers.

import Foundation
import Glibc
import TestSupport
import Testing

@Suite(
  .serialized, .waitsForProcesses,
  .enabled(
    if: FleetServers.areInstalled,
    "prometheus, prometheus-node-exporter or prometheus-alertmanager is not installed"))
struct FleetServerTests {
  /// A lock fails. Two scrapes later the alert fires, and the fix that memwatch gives resolves it.
  @Test(.enabled(if: Programs.mayLimitToOneMiB, "RLIMIT_MEMLOCK's hard limit is below 1 MiB"))
  func aFailedLockFiresAndItsFixResolvesIt() throws {
    let host = try FleetServers.Host()
    let peer = try host.publisher(
      prefix: withoutLockCapability(soft: 65536, hard: 1 << 20),
      "arena a tls-keys slab preferred pages", "alloc a 4000 40")
    let servers = try FleetServers(watching: [host])
    let partial = "memwatch_arena_lock_state{process=\"\(host.name)\",state=\"partial\"}"
    #expect(try servers.query(partial).isEmpty)

    // The file exists. Count the scrapes until Prometheus has it.
    let once = try memwatch("export", "--textfile", host.files.path, "--once", stats: host.stats)
    #expect(once.status == 0, "\(once.error)")
    let scrapes = try #require(try servers.query("count_over_time(up[1h])").first?.value)
    try eventually("the failed lock is in Prometheus") {
      try servers.query(partial).contains { $0.value == 1 }
    }
    let missed = try servers.query(
      "sum(count_over_time(up[1h])) - sum(count_over_time(\(partial)[1h]))")
    #expect(try #require(missed.first).value <= scrapes + 2)

    try host.export()
    var labels: [String: String] = [:]
    try eventually("the alert is in Alertmanager") {
      labels = try servers.alerts("MemwatchArenaNotLocked", of: host).first ?? [:]
      return !labels.isEmpty
    }
    #expect(labels["arena"] == "tls-keys" && labels["severity"] == "critical")
    #expect(labels["instance"] == host.address)

    // The command in the alert.
    let listed = try memwatch("list", "--json", stats: host.stats)
    let publishers = try json(listed.output)["publishers"] as! [[String: Any]]
    let named = publishers.filter { $0["name"] as? String == host.name }
    #expect(named.map { $0["pid"] as? Int } == [Int(peer.pid)])
    let snapshot = try memwatch("snapshot", "\(peer.pid)", stats: host.stats)
    let fix = try #require(snapshot.output.firstMatch(of: /prlimit --pid [^\n]*/)).output
    let fixed = try Launch(["sh", "-c", String(fix)]).run()
    #expect(fixed.status == 0, "\(fix): \(fixed.error)")
    try eventually("the alert is resolved") {
      try servers.alerts("MemwatchArenaNotLocked", of: host).isEmpty
    }
    #expect(try servers.query(partial).allSatisfy { $0.value == 0 })
  }

  /// A killed publisher fires an alert. Its successor resolves the alert without duplicate series.
  @Test func aKilledPublisherIsGoneAndARestartIsTheSameOne() throws {
    let host = try FleetServers.Host()
    try host.export()
    let peer = try host.publisher("arena a alpha slab off none", "alloc a 10 32")
    let servers = try FleetServers(watching: [host])
    let process = "process=\"\(host.name)\""
    let live = "memwatch_publishers{\(process),state=\"live\"}"
    try eventually("it is there") { try servers.query("\(live) == 1").count == 1 }
    #expect(try servers.alerts("MemwatchPublisherGone", of: host).isEmpty)
    peer.kill()
    try eventually("its end is told") {
      try !servers.alerts("MemwatchPublisherGone", of: host).isEmpty
    }
    let next = try host.publisher("arena a alpha slab off none", "alloc a 7 32")
    defer { next.kill() }
    try eventually("another one took its place") {
      try servers.alerts("MemwatchPublisherGone", of: host).isEmpty
        && servers.query("memwatch_publisher_restarts_total{\(process)} == 1").count == 1
    }
    #expect(try servers.query(live).map(\.value) == [1])
    let allocated = "memwatch_arena_allocations_total{\(process)}"
    try eventually("its allocations are added") {
      try servers.query(allocated).map(\.value) == [17]
    }
    // node_exporter accepted every file, and Prometheus every scrape.
    #expect(try servers.query("max_over_time(node_textfile_scrape_error[1h])").map(\.value) == [0])
    #expect(try servers.query("min_over_time(up[1h])").map(\.value) == [1])
  }

  /// Each host is a separate instance, whatever its publishers are called.
  @Test func threeHostsAreSeparateInstances() throws {
    let hosts = try (1...3).map { try FleetServers.Host("127.0.0.\($0)") }
    var peers: [Peer] = []
    for (index, host) in hosts.enumerated() {
      try host.export()
      let peer = try host.publisher("arena a alpha slab off none", "alloc a \(index + 1) 32")
      peers.append(peer)
    }
    defer { for peer in peers { peer.kill() } }
    let servers = try FleetServers(watching: hosts)
    // (Root also sees publishers of other tests.)
    for (index, host) in hosts.enumerated() {
      let secrets = "memwatch_arena_secrets{process=\"\(host.name)\"}"
      try eventually("its publisher is there") {
        try servers.query(secrets).contains { $0.labels["instance"] == host.address }
      }
      #expect(try servers.query(secrets).allSatisfy { $0.value == Double(index + 1) })
    }
    #expect(try servers.query("memwatch_build_info").count == 3)
  }

  /// Hosts with separate networks, mounts and processes, whose publishers have the same name.
  @Test(
    .enabled(
      if: FleetNetwork.isMissing == nil,
      "no network namespaces, veth pairs and bridges: \(FleetNetwork.isMissing ?? "")"))
  func threeNetworksAreThreeInstances() throws {
    let network = try FleetNetwork()
    let hosts = try (1...3).map { try FleetServers.Host($0, of: network, name: "web") }
    var peers: [Peer] = []
    for (index, host) in hosts.enumerated() {
      try host.export()
      peers.append(
        try host.publisher("arena a alpha slab off none", "alloc a \(index + 1) 32"))
    }
    defer { for peer in peers { try? peer.exit() } }
    let servers = try FleetServers(watching: hosts, in: network)
    let expected = Dictionary(
      uniqueKeysWithValues: hosts.enumerated().map { ($1.address, Double($0 + 1)) })
    try eventually("each host's publisher is there") {
      let found = try servers.query("memwatch_arena_secrets{process=\"web\",arena=\"alpha\"}")
      return Dictionary(found.map { ($0.labels["instance"] ?? "", $0.value) }) { first, _ in first }
        == expected
    }
    // No host sees another's processes.
    #expect(
      try servers.query("sum by (instance) (memwatch_publishers)").map(\.value) == [1, 1, 1])
    #expect(try servers.query("sum(memwatch_arena_secrets)").map(\.value) == [6])
  }
}

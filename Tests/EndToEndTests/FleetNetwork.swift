// Three hosts on one machine, each with its own network, mounts and processes, joined by a bridge.
// Processes on a host end with it.

import Foundation
import TestSupport

final class FleetNetwork {
  /// Runs as root, or in a user namespace if anybody may create one.
  private static let first =
    ["unshare"] + (Programs.isRoot ? [] : ["--user", "--map-root-user"]) + ["--net", "--mount"]

  /// Why this machine cannot have such hosts; nil if it can.
  static let isMissing: String? = {
    let probe = "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge"
    guard let ended = try? Launch(first + ["sh", "-c", probe]).run() else { return "no sh" }
    return ended.status == 0 ? nil : ended.error
  }()

  private static let script = """
    set -e
    ip link set lo up
    ip link add hosts type bridge
    ip address add 10.231.0.254/24 dev hosts
    ip link set hosts up
    for n in 1 2 3; do
      setpriv --pdeathsig KILL unshare --net --mount --pid --fork --kill-child --mount-proc sh -ec '
        mount -t tmpfs none /run
        mount -t tmpfs none /dev/shm
        ip link set lo up
        touch /dev/shm/ready
        exec sleep infinity' >/dev/null </dev/null &
      inner=
      until [ -n "$inner" ] && nsenter --target "$inner" --mount test -e /dev/shm/ready 2>/dev/null; do
        kill -0 $!
        inner=$(tr -d ' ' <"/proc/$!/task/$!/children")
      done
      ip link add "host$n" type veth peer name eth0 netns "$inner"
      ip link set "host$n" master hosts up
      nsenter --target "$inner" --net sh -ec "ip address add 10.231.0.$n/24 dev eth0; ip link set eth0 up"
      echo "$inner"
    done
    echo "$$"
    exec cat
    """

  private let process: Process
  private let input = Pipe()
  private var pids: [String] = []

  init() throws {
    let output = Pipe()
    process = Launch(Self.first + ["sh", "-c", Self.script]).process()
    process.standardInput = input
    process.standardOutput = output
    try process.runUnblocked()
    var text = Data()
    while pids.count < 4 {
      let more = output.fileHandleForReading.availableData
      guard !more.isEmpty else { throw Failed("no network after \(pids)") }
      text += more
      pids = String(decoding: text, as: UTF8.self).split(separator: "\n").map { String($0) }
    }
  }

  /// The command prefix that runs a program on a host, 1 to 3.
  func on(_ host: Int) -> [String] {
    enter(pids[host - 1]) + ["--mount", "--pid"]
  }

  /// The command prefix that runs a program on the machine that reaches all hosts.
  var center: [String] { enter("\(process.processIdentifier)") }

  static func address(_ host: Int) -> String { "10.231.0.\(host)" }

  private func enter(_ pid: String) -> [String] {
    ["nsenter", "--target", pid] + (Programs.isRoot ? [] : ["--user", "--preserve-credentials"])
      + ["--net"]
  }

  deinit {
    try? input.fileHandleForWriting.close()
    process.waitUntilExit()
  }
}

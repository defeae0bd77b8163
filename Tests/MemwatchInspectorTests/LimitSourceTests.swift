// The permanent fix names the service that sets the limits of this process.

import TestSupport
import Testing

@testable import MemwatchInspector

@Suite struct LimitSourceTests {
  static let id = String(repeating: "3f", count: 32)

  @Test(arguments: [
    ("0::/system.slice/tls-gateway.service\n", LimitSource.service("tls-gateway.service")),
    ("0::/system.slice/system-foo.slice/foo@1.service\n", .service("foo@1.service")),
    (
      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service\n",
      .userService("agent.service")
    ),
    ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", .session),
    ("0::/user.slice/user-1000.slice/session-4.scope\n", .session),
    ("0::/system.slice/docker-\(id).scope\n", .docker),
    ("12:memory:/docker/\(id)\n0::/system.slice/docker.service\n", .docker),
    (
      "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-\(id).scope/container\n",
      .podman
    ),
    ("0::/machine.slice/libpod-\(id).scope\n", .podman),
    ("0::/system.slice/nerdctl-\(id).scope\n", .containerd),
    ("0::/lxc.payload.build/init.scope\n", .lxc),
    (
      "0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-\(id).scope\n",
      .kubernetes
    ),
    ("0::/system.slice/docker.service\n", .service("docker.service")),
    ("0::/\n", .container), ("", .session), ("no control group at all", .session),
  ])
  func limitSourceFollowsTheControlGroup(cgroup: String, source: LimitSource) {
    #expect(LimitSource(cgroup: cgroup) == source)
  }

  @Test(arguments: [
    (LimitSource.service("a.service"), ["LimitMEMLOCK=16M", "systemctl edit a.service"]),
    (.userService("a.service"), ["LimitMEMLOCK=16M", "systemctl --user edit a.service"]),
    (.docker, ["docker run --ulimit memlock=16777216:16777216"]),
    (.podman, ["podman run --ulimit memlock=16777216:16777216"]),
    (.lxc, ["lxc.prlimit.memlock = 16777216"]),
    (.kubernetes, ["LimitMEMLOCK=16M", "containerd.service", "IPC_LOCK", "securityContext"]),
    (.container, ["--ulimit memlock=16777216:16777216", "Kubernetes"]),
    (.session, ["/etc/security/limits.d/memlock.conf: keysvc - memlock 16384"]),
  ])
  func theFixIsForItsKind(source: LimitSource, parts: [String]) {
    let keep = source.keep(16 << 20, user: "keysvc")
    for part in parts { #expect(keep.contains(part), "\(keep)") }
  }

  /// The name of a control group shows what started the process.
  @Test func aHostileNameIsSanitised() {
    guard case .service(let unit) = LimitSource(cgroup: "0::/a\u{1b}]0;x\u{7}.service\n") else {
      Issue.record("no service")
      return
    }
    #expect(!unit.unicodeScalars.contains { $0.value < 32 })
  }

  /// The screen shows the free part beside it.
  @Test func theRoomIsShownInItsParts() {
    var memlock = Memlock()
    memlock.headroom = 16 << 10
    #expect(
      memlock.text(ofRoom: 20 << 10) == "20 KiB that can still be locked (16 KiB free, 4 KiB idle)")
    #expect(memlock.text(ofRoom: 16 << 10) == "16 KiB that can still be locked")
  }
}

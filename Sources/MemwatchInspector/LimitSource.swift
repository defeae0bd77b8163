// Who sets the limits of a process: what to change so that a higher RLIMIT_MEMLOCK lasts.

/// What started a process, judged by its control group (cgroups(7)).
package enum LimitSource: Equatable, Sendable {
  /// A login session, or something unknown.
  case session
  /// A systemd service, of the system or of a user's service manager.
  case service(String)
  case userService(String)
  case docker, podman, containerd, lxc
  /// A container whose kind does not show, because its control groups are in a namespace.
  case container
  case kubernetes

  /// - Parameter cgroup: the contents of /proc/PID/cgroup.
  package init(cgroup: String) {
    let paths = cgroup.split(separator: "\n").compactMap { line in
      line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false).last
    }
    let parts = paths.flatMap { $0.split(separator: "/") }
    func hasScope(_ prefix: String) -> Bool {
      parts.contains { $0.hasPrefix(prefix) && $0.hasSuffix(".scope") }
    }
    // Containers first: they may run inside a service, such as podman's in a user manager.
    if parts.contains(where: { $0.hasPrefix("kubepods") }) {
      self = .kubernetes
    } else if hasScope("libpod-") {
      self = .podman
    } else if hasScope("docker-") || parts.contains("docker") {
      self = .docker
    } else if hasScope("nerdctl-") {
      self = .containerd
    } else if parts.contains(where: { $0 == "lxc" || $0.hasPrefix("lxc.payload") }) {
      self = .lxc
    } else if let path = paths.first(where: { $0.contains(".service") }) {
      let parts = path.split(separator: "/")
      let unit = parts.last { $0.hasSuffix(".service") }.map { SafeText(String($0)).string } ?? "?"
      let isOfUser = parts.contains { $0.hasPrefix("user@") && $0 != parts.last }
      self = unit.hasPrefix("user@") ? .session : isOfUser ? .userService(unit) : .service(unit)
    } else if !paths.isEmpty, paths.allSatisfy({ $0 == "/" }) {
      // On a host only the kernel's own threads are in the root group.
      self = .container
    } else {
      self = .session
    }
  }

  /// How to make a limit permanent.
  ///
  /// - Parameters:
  ///   - limit: in bytes.
  ///   - user: whom a login session belongs to.
  func keep(_ limit: UInt64, user: String) -> String {
    let megabytes = "LimitMEMLOCK=\(max(1, limit >> 20))M"
    let option = "--ulimit memlock=\(limit):\(limit)"
    return switch self {
    case .service(let unit): "\(megabytes) in \(unit) (systemctl edit \(unit)), then restart it"
    case .userService(let unit):
      "\(megabytes) in \(unit) (systemctl --user edit \(unit)), and in user@.service"
    case .docker: "docker run \(option)"
    case .podman: "podman run \(option)"
    case .containerd: "nerdctl run \(option)"
    case .lxc: "lxc.prlimit.memlock = \(limit) in the container's configuration"
    case .container:
      "\(option) for the container; under Kubernetes \(megabytes) for the node's containerd.service"
    case .kubernetes:
      "\(megabytes) for the node's containerd.service: Kubernetes has no such limit per pod; or "
        + "capability IPC_LOCK in the pod's securityContext"
    case .session:
      "in /etc/security/limits.d/memlock.conf: \(user) - memlock \(limit >> 10), then log in again"
    }
  }
}

// What /proc says about a process. It opens `stat`, `status`, `limits`, `maps`, `cgroup` and two
// namespace links; never `mem`, `environ`, `auxv` or `cmdline`.

import EnclaveSystem
import MemwatchSystem

/// A reading of /proc/PID; nil: could not be read.
package enum RunState: Character, Sendable {
  case zombie = "Z"
  case dead = "X"
  case stopped = "T"
  case traced = "t"
}

package struct ProcessProbe: Equatable, Sendable {
  package var exists = false
  package var runState: RunState?
  package var startTime: UInt64?
  package var isKernelThread = false
  package var tracer: Int32?
  package var lockedBytes: UInt64?
  package var softLimit: UInt64?
  package var hardLimit: UInt64?
  package var hasLockCapability: Bool?
  package var isInInitialUserNamespace: Bool?
  package var mapCount: Int?
  package var unit: String?
  package var limitSource = LimitSource.session

  /// The kernel's fixed inode of the initial user namespace (PROC_USER_INIT_INO).
  private static let initialUserNamespace = "user:[4026531837]"
  /// CAP_IPC_LOCK (capabilities(7)).
  private static let ipcLock: UInt64 = 1 << 14

  /// Mappings are not counted if the file is larger.
  private static let mostMapBytes = 64 << 20

  /// An empty probe.
  init() {}

  /// - Parameters:
  ///   - limits: an earlier probe to copy limits from; nil: read them.
  ///   - surroundings: an earlier probe to copy namespaces and groups from; nil: read them.
  package init(
    pid: Int32, countingMaps: Bool, limits: ProcessProbe? = nil, surroundings: ProcessProbe? = nil
  ) {
    func bytes(_ file: ProcessFile, limit: Int = 16384) -> [UInt8]? {
      InspectedFile.process(file, pid: pid).bytes(limit: limit)
    }
    guard let text = bytes(.stat), !text.isEmpty else { return }
    exists = true
    let stat = ProcStat(text)
    runState = stat.flatMap { RunState(rawValue: $0.state) }
    startTime = stat?.startTime
    isKernelThread = stat?.isKernelThread ?? false
    if let status = bytes(.status) {
      lockedBytes = ProcText.kilobytes("VmLck", in: status).map { $0 &* 1024 }
      tracer = ProcText.value("TracerPid", in: status).flatMap { ProcText.number($0) }
        .flatMap { Int32(exactly: $0) }
      hasLockCapability = ProcText.value("CapEff", in: status)
        .flatMap { ProcText.number($0, radix: 16) }.map { $0 & Self.ipcLock != 0 }
    }
    if countingMaps, let maps = bytes(.maps, limit: Self.mostMapBytes), !maps.isEmpty,
      maps.count < Self.mostMapBytes
    {
      mapCount = maps.count { $0 == UInt8(ascii: "\n") }
    }
    if let limits, limits.startTime == startTime {
      (softLimit, hardLimit) = (limits.softLimit, limits.hardLimit)
    } else if let text = bytes(.limits),
      let fields = ProcText.fields(behind: "Max locked memory", in: text), fields.count >= 2
    {
      func limit(_ field: ArraySlice<UInt8>) -> UInt64? {
        field.elementsEqual("unlimited".utf8) ? .max : ProcText.number(field)
      }
      (softLimit, hardLimit) = (limit(fields[0]), limit(fields[1]))
    }
    if let surroundings, surroundings.startTime == startTime {
      isInInitialUserNamespace = surroundings.isInInitialUserNamespace
      (unit, limitSource) = (surroundings.unit, surroundings.limitSource)
    } else {
      readSurroundings(pid)
    }
  }

  /// Reads namespaces and groups, which rarely change.
  private mutating func readSurroundings(_ pid: Int32) {
    isInInitialUserNamespace = InspectedFile.namespaces(pid: pid).fields(limit: 4096)?.first.flatMap
    {
      $0.isEmpty ? nil : $0 == Self.initialUserNamespace
    }
    if let cgroup = InspectedFile.process(.cgroup, pid: pid).text(limit: 65536) {
      limitSource = LimitSource(cgroup: cgroup)
      unit = cgroup.split(separator: "\n").lazy
        .compactMap { $0.split(separator: "/").last { $0.hasSuffix(".service") } }
        .first.map { SafeText(String($0)).string }
    }
  }

  /// Why the process cannot be inspected; nil if it can.
  package func absence(of pid: Int32) -> String? {
    if !exists { return "process \(pid) does not exist" }
    if isKernelThread {
      return "process \(pid) is a kernel thread and has no memory of its own"
    }
    if runState == .zombie {
      return "process \(pid) has ended, but its parent has not reaped it (a zombie)"
    }
    return isGone ? "process \(pid) has ended" : nil
  }

  package var isGone: Bool { !exists || runState == .zombie || runState == .dead }
  package var isStopped: Bool { runState == .stopped || runState == .traced }

  /// What stopped the process.
  var stopText: String {
    (tracer ?? 0) != 0 ? "by the debugger, pid \(tracer!)" : "by a signal"
  }

  /// Whether RLIMIT_MEMLOCK binds. CAP_IPC_LOCK counts only in the initial user namespace.
  package var binds: Binds {
    guard exists, let hasLockCapability else { return .unknown }
    guard hasLockCapability else { return softLimit == .max ? .no : .yes }
    switch isInInitialUserNamespace {
    case true: return .no
    case false: return softLimit == .max ? .no : .yes
    case nil: return softLimit == .max ? .no : .unknown
    }
  }
}

package enum Users {
  package static func name(_ uid: UInt32) -> SafeText {
    InspectedFile.userName(uid).fields(limit: 1024)?.first.map { SafeText($0) }
      ?? SafeText("\(uid)")
  }
}

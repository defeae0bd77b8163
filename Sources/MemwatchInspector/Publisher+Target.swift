// Matching publishers against a target, and explaining unreadable pages.

import EnclaveStats
import EnclaveSystem

extension Publisher {
  func matches(_ target: Target) -> Bool {
    switch target {
    case .only: return true
    case .pid(let wanted): return pid == wanted || (pid == nil && publisherPid == UInt64(wanted))
    case .name(let wanted): return name.isName(wanted)
    case .file: return true
    }
  }

  func failing(with failure: StatsPageReadFailure) -> Publisher {
    var copy = self
    switch failure {
    case .corrupt(let reason):
      copy.state = .corrupt
      copy.stateDetail = reason
    case .incompatible(let major, let minor):
      copy.state = .incompatible
      copy.stateDetail =
        "the page has version \(major).\(minor); memwatch reads version \(StatsPageFormat.major)"
    case .file(let failure):
      copy.state = failure.isDenied ? .notPermitted : failure.isMissing ? .exited : .corrupt
      copy.stateDetail = SafeText("\(failure)").string
    }
    return copy
  }
}

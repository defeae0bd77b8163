// sandbox-probe PID [MECHANISM…|none] [other-architecture]: confines itself with these mechanisms
// (by default with all), and tries actions against process PID and the system. Prints one line per
// action: `name: 0` if it succeeded, otherwise the error number.

import CTestSupport
import Glibc
import MemwatchSandbox

let arguments = CommandLine.arguments.dropFirst()
guard let pid = arguments.first.flatMap({ Int32($0) }) else {
  exit(64)
}
let named = arguments.dropFirst().compactMap { Confinement.Mechanism(rawValue: $0) }

func probe() {
  if arguments.contains("other-architecture") { test_other_architecture() }
  for index in 0..<test_probe_count() {
    unsafe print("\(String(cString: test_probe_name(index))): \(-test_probe(index, pid))")
  }
  fflush(nil)
}

if arguments.contains("none") {
  probe()
  exit(0)
}
var broker = Broker(named: [], exportsTo: ".")
let end = try broker.run(
  mechanisms: named.isEmpty ? Set(Confinement.Mechanism.allCases) : Set(named), prepare: {},
  body: { (_, _, confinement) in
    print("holds: \(confinement.mechanisms.joined(separator: ", "))")
    probe()
    exit(0)
  })
switch end {
case .exited(let code): exit(code)
case .killed(let signal): print("killed: \(signal)")
case .overdue(let signal): print("overdue: \(signal)")
}

// `memwatch audit`: a publisher's claims, or any process's mappings, against the kernel.

import ArgumentParser
import MemwatchInspector

struct AuditCommand: ConfinedCommand {
  static let configuration = CommandConfiguration(
    commandName: "audit",
    abstract: "Compares a publisher's claims with the kernel, or surveys any process.",
    discussion: """
      Exits with 6 if the kernel contradicts the page.

      For a process that publishes nothing, it lists the mappings that are locked, left out of core \
      dumps, wiped on fork, sealed, key-tagged or secretmem, with their likely owners and missing \
      protections. Reading the mappings stalls the process for as long as the kernel takes to write \
      them.

      \(Examples.text(of: "audit"))
      """)

  @OptionGroup var target: TargetOptions
  @Flag(name: .long, help: "Print JSON.")
  var json = false

  var needs: Prerequisites { Prerequisites(named: target.named) }

  func runConfined(_ viewer: Viewer) throws {
    let inspector: Inspector
    do throws(Failure) { inspector = try target.attach() } catch {
      guard case .pid(let pid) = target.resolved, error.code != Exit.several,
        ProcessProbe(pid: pid, countingMaps: false).absence(of: pid) == nil
      else { throw error }
      return try survey(pid)
    }
    let snapshot = inspector.sample(auditing: .now)
    if json {
      try Output.standard(
        try Format.json(
          Value.document(
            .audit,
            [
              ("pid", Value(snapshot.process.pid)), ("audit", snapshot.audit?.document ?? .null),
            ])))
    } else {
      try Output.standard(snapshot.auditText)
    }
    let state = Exit.code(for: snapshot.process.state)
    throw ExitCode(state == 0 && snapshot.auditDiffers ? Exit.checkFailed : state)
  }

  private func survey(_ pid: Int32) throws(Failure) {
    let survey: Survey
    do { survey = try Survey(pid: pid) } catch {
      switch error {
      case .denied:
        throw Failure(
          Exit.notPermitted,
          "cannot read the mappings of process \(pid): run memwatch as its user (if the process is "
            + "dumpable), as root, or with CAP_PERFMON")
      case .failed(let text): throw Failure(Exit.failure, text.string)
      }
    }
    try Output.standard(json ? try Format.json(survey.document) : survey.text)
  }
}

// Runs the user's program for each alert.

/// Starts one program per alert, one at a time, without a shell. Its arguments are the alert's kind
/// and the arena's id or `-`, also given as ENCLAVE_ALERT_KIND and ENCLAVE_ALERT_ARENA. No text
/// from another process reaches it.
package final class AlertRunner {
  private let program: String
  private var waiting: [(kind: String, arenaID: UInt64?)] = []
  private var running: Command?
  /// The last failure to start it: 125 to 127, as in env(1); 0: none.
  package private(set) var failure: Int32 = 0

  package init(program: String) { self.program = program }

  /// - Parameter kind: the index of a problem kind.
  package func add(kind: Int, arenaID: UInt64?) {
    guard ProblemKind.allCases.indices.contains(kind) else { return }
    // A storm of alerts must not become a storm of processes.
    guard waiting.count < 100 else { return }
    waiting.append((ProblemKind.allCases[kind].rawValue, arenaID))
  }

  /// Starts the next program once the last has ended. Called at each sample.
  package func poll() {
    if let command = running {
      guard command.poll() != nil else { return }
      command.removeLog()
      running = nil
    }
    guard !waiting.isEmpty else { return }
    let (kind, id) = waiting.removeFirst()
    let arena = id.map { "\($0)" } ?? "-"
    do throws(CommandFailure) {
      running = try Command.start(
        [program, kind, arena], publishing: false, detached: true, name: "alert",
        environment: ["ENCLAVE_ALERT_KIND": kind, "ENCLAVE_ALERT_ARENA": arena])
      failure = 0
    } catch { failure = error.code }
  }

  /// Starts no more programs; a running one continues on its own.
  package func end() {
    waiting = []
    running?.removeLog()
    running = nil
  }
}

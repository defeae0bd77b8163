// A command of the user's for each alert.

/// Starts one program for each alert, one at a time, without a shell: its arguments are the kind and
/// the arena's id, or `-`; so are ENCLAVE_ALERT_KIND and ENCLAVE_ALERT_ARENA of its environment. No text
/// of another process reaches it.
package final class AlertRunner {
  private let program: String
  private var waiting: [(kind: String, arenaID: UInt64?)] = []
  private var running: Command?
  /// What went wrong last: 125 to 127, as env(1) has them; 0: nothing.
  package private(set) var failure: Int32 = 0

  package init(program: String) { self.program = program }

  /// - Parameter kind: the number of a kind among all.
  package func add(kind: Int, arenaID: UInt64?) {
    guard ProblemKind.allCases.indices.contains(kind) else { return }
    // A storm of alerts is not a storm of processes.
    guard waiting.count < 100 else { return }
    waiting.append((ProblemKind.allCases[kind].rawValue, arenaID))
  }

  /// Starts the next when the last has ended. Called at each sample.
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
        [program, kind, arena], publishing: false, logged: true, name: "alert",
        environment: ["ENCLAVE_ALERT_KIND": kind, "ENCLAVE_ALERT_ARENA": arena])
      failure = 0
    } catch { failure = error.code }
  }

  /// Starts no more; the running one goes on by itself.
  package func end() {
    waiting = []
    running?.removeLog()
    running = nil
  }
}

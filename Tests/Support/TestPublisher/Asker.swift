// `test-publisher ask [MODE…]`: prompts for a passphrase at its terminal, and prints the result.
//
//   limit N    the maximum length of a line
//   wipe       calls EmergencyWipe.install first
//   wipe-late  calls it in another thread, once the echo is off
//   handle     has its own handler for SIGTERM, SIGINT and SIGTSTP, which returns
//   ignore     ignores SIGINT
//   blocked    the prompting thread has all signals blocked, but another thread does not
//   exit       another thread calls exit(3) once the echo is off
//   fork       another thread forks a child that waits, once the echo is off
//   held       does not read what is typed before SIGUSR1 (debug builds)
//   rest       continues to read standard input afterwards
//   twice      prompts again

import CTestSupport
import Enclave
import EnclaveSystem
import Glibc

nonisolated(unsafe) private var handled: [Int32: Int] = [:]

enum Asker {
  private static func say(_ text: String) {
    let line = Array("[\(text)]\n".utf8)
    _ = unsafe write(1, line, line.count)
  }

  private static var isSilent: Bool {
    var modes = termios()
    return unsafe tcgetattr(0, &modes) == 0 && modes.c_lflag & tcflag_t(ECHO) == 0
  }

  private static func onceSilent(_ body: @escaping @Sendable () -> Void) {
    spawnThread {
      while !isSilent { poll(nil, 0, 1) }
      body()
    }
  }

  private static func ask(_ arena: Arena, limit: Int) {
    do throws(EnclaveError) {
      let secret = try arena.readPassphrase(prompt: "Passphrase: ", limit: limit)
      var text = ""
      do {
        text = try secret.withBytes { bytes in
          unsafe bytes.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) }
        }
      } catch { text = "\(error)" }
      say("got \(text)")
    } catch {
      if case .endOfInput(let received) = error {
        say("ended \(received)")
      } else {
        say("\(error)")
      }
    }
  }

  static func run(_ modes: [String]) throws {
    say("pid \(getpid())")
    let arena = try Arena("asker", .init(lock: .preferred))
    let limit = modes.firstIndex(of: "limit").flatMap { Int(modes[$0 + 1]) } ?? 1024
    if modes.contains("wipe") { try EmergencyWipe.install() }
    if modes.contains("wipe-late") {
      onceSilent {
        try? EmergencyWipe.install()
        say("covers \(EmergencyWipe.coveredSignals.contains(SIGTERM))")
      }
    }
    if modes.contains("handle") {
      for number in [SIGTERM, SIGINT, SIGTSTP] {
        _ = signal(number) { unsafe handled[$0, default: 0] += 1 }
      }
    }
    #if DEBUG
      if modes.contains("held") {
        FaultPlan.hold(.readInput)
        _ = signal(SIGUSR1) { _ in FaultPlan.resume() }
        spawnThread {
          while !FaultPlan.holdsThread { poll(nil, 0, 1) }
          say("holding")
        }
      }
    #endif
    if modes.contains("ignore") { _ = signal(SIGINT, SIG_IGN) }
    if modes.contains("exit") { onceSilent { exit(3) } }
    if modes.contains("fork") {
      onceSilent {
        let child = ct_fork()
        if child == 0 { while true { pause() } }
        say("child \(child)")
        var status: Int32 = 0
        unsafe waitpid(child, &status, 0)
        say("child ended \(status)")
      }
    }
    if modes.contains("blocked") {
      // Started before the mask is set, so that this thread receives the signals.
      let asks = Gate()
      spawnThread {
        var all = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_BLOCK, &all, nil)
        ask(arena, limit: limit)
        asks.set()
      }
      asks.wait()
    } else {
      ask(arena, limit: limit)
    }
    if modes.contains("twice") { ask(arena, limit: limit) }
    for (number, count) in unsafe handled.sorted(by: { $0.key < $1.key }) {
      say("handled \(number) \(count)")
    }
    if modes.contains("rest") { say("rest \(readLine() ?? "none")") }
  }
}

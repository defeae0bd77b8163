// A mistake worth seeing: a thread that holds a secret open for minutes.

import Enclave
import Glibc
import Synchronization

/// Opens a secret for 100 s, closes it for 20 s, and begins again, on a thread of its own.
final class HeldSecret: Sendable {
  private let secret: SecretReference
  private let isStopping = Atomic(false)
  private let isDone = Atomic(false)

  init(_ secret: SecretReference) {
    self.secret = secret
    var thread = pthread_t()
    let holder = unsafe Unmanaged.passRetained(self)
    let failure = unsafe pthread_create(
      &thread, nil,
      { context in
        let holder = unsafe Unmanaged<HeldSecret>.fromOpaque(context!).takeRetainedValue()
        holder.run()
        return nil
      }, holder.toOpaque())
    guard failure == 0 else {
      unsafe holder.release()
      isDone.store(true, ordering: .releasing)
      return
    }
    pthread_detach(thread)
  }

  /// Ends the window; arenas can be destroyed then.
  func stop() {
    isStopping.store(true, ordering: .releasing)
    while !isDone.load(ordering: .acquiring) { _ = usleep(1000) }
  }

  private func run() {
    while !isStopping.load(ordering: .acquiring) {
      try? secret.withBytes { _ in pause(seconds: 100) }
      pause(seconds: 20)
    }
    isDone.store(true, ordering: .releasing)
  }

  private func pause(seconds: Int) {
    for _ in 0..<seconds * 50 where !isStopping.load(ordering: .acquiring) { _ = usleep(20_000) }
  }
}

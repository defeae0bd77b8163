// Times an operation with the method of the harness in Tests/PeerBenchmarks, so that the results
// are comparable.

import Glibc

func now() -> UInt64 {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// A fast pseudo-random sequence (xorshift).
struct Sequence64 {
  var state: UInt64
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}

/// The operation that one thread repeats. Created and used on that thread.
protocol Work: AnyObject {
  func step()
}

struct Timing {
  var ns: Double
  var p99: Double?
  /// The time of filling, if the work fills something first.
  var fillNs: Double?
}

/// A barrier that spins, so that all threads start within a microsecond.
@safe
final class StartLine: @unchecked Sendable {
  private var barrier = pthread_barrier_t()
  init(_ count: Int) { unsafe pthread_barrier_init(&barrier, nil, UInt32(count)) }
  func wait() { unsafe pthread_barrier_wait(&barrier) }
}

/// Pins this thread to a processor: threads that share one would distort the scaling.
func pin(to cpu: Int) {
  // glibc declares it only with _GNU_SOURCE.
  typealias Call = @convention(c) (Int32, Int, UnsafeRawPointer) -> Int32
  guard let symbol = unsafe dlsym(nil, "sched_setaffinity") else { return }
  var mask = [UInt8](repeating: 0, count: 128)
  mask[cpu / 8] = 1 << UInt8(cpu % 8)
  _ = unsafe unsafeBitCast(symbol, to: Call.self)(0, mask.count, mask)
}

final class Worker: @unchecked Sendable {
  let make: () -> any Work
  let barrier: StartLine
  let steps: Int
  let batchNs: UInt64
  let cpu: Int
  var ns = 0.0
  var latencies: [UInt64] = []

  init(make: @escaping () -> any Work, barrier: StartLine, steps: Int, batchNs: UInt64, cpu: Int) {
    self.make = make
    self.barrier = barrier
    self.steps = steps
    self.batchNs = batchNs
    self.cpu = cpu
    latencies.reserveCapacity(4000)
  }

  func run() {
    pin(to: cpu)
    let work = make()
    for _ in 0..<3 { work.step() }
    barrier.wait()
    let start = now()
    for _ in 0..<steps { work.step() }
    ns = Double(now() - start) / Double(steps)
    barrier.wait()
    let end = now() + batchNs / 2
    while latencies.count < 4000 {
      let before = now()
      if before > end { break }
      work.step()
      latencies.append(now() - before)
    }
    barrier.wait()
  }
}

/// Calibrates on this thread, then measures on `threads` pinned threads.
func measure(threads: Int, batchMs: Int, _ make: @escaping (Int) -> any Work) -> Timing {
  var steps = 1
  do {
    let work = make(0)
    while true {
      let start = now()
      for _ in 0..<steps { work.step() }
      let taken = now() - start
      if taken > 1_500_000 || steps > 1 << 26 {
        steps = max(3, Int(Double(steps) * Double(batchMs) * 1e6 / Double(max(taken, 1))))
        break
      }
      steps *= 2
    }
  }
  let barrier = StartLine(threads)
  let cpus = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
  let workers = (0..<threads).map { index in
    Worker(
      make: { make(index) }, barrier: barrier, steps: steps, batchNs: UInt64(batchMs) * 1_000_000,
      cpu: index % cpus)
  }
  let handles = workers.map { worker -> pthread_t in
    var handle = pthread_t()
    let box = unsafe Unmanaged.passRetained(worker)
    unsafe pthread_create(
      &handle, nil,
      { raw in
        unsafe Unmanaged<Worker>.fromOpaque(raw!).takeRetainedValue().run()
        return nil
      }, box.toOpaque())
    return handle
  }
  for handle in handles { pthread_join(handle, nil) }
  let latencies = workers.flatMap(\.latencies).sorted()
  return Timing(
    ns: workers.reduce(0) { $0 + $1.ns } / Double(threads),
    p99: latencies.count > 50 ? Double(latencies[latencies.count * 99 / 100]) : nil)
}

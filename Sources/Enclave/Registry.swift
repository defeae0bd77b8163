// What is process-wide by nature: the fork generation, the list of arenas, the one publisher.

import EnclaveStats
import EnclaveSystem

/// The process' registry. Everything in it is reached under one spin word; the order of locks is
/// registry, then arena.
package enum Registry {
  @safe
  struct State {
    var generation: UInt64 = 0
    var arenas: [ArenaReference] = []
    var vaults: [KnownVault] = []
    /// Records of vaults that are in use.
    var listedVaults = 0

    var nextArena: UInt64 = 1
    var destroyed: UInt64 = 0
    var publication: Publication?
    var hasReadEnvironment = false
    var hasExitHandler = false
    var nextPublication: UInt64 = 1
    /// The process that this is the state of; 0 before the first use.
    var process: Int32 = 0

    init() {}

    /// The state of a forked child: numbers go on, and exit handlers were inherited.
    init(succeeding parent: borrowing State) {
      nextArena = parent.nextArena
      nextPublication = parent.nextPublication
      hasExitHandler = parent.hasExitHandler
    }
  }

  @safe
  struct Publication {
    var number: UInt64
    var file: StatsPageFile
    var addresses: StatsPublisher.Addresses
    var addressesLost = false
    var tickMs: UInt32
    var ticks: UInt64 = 0
    var lockedBytes: UInt64?
    var isKept = false
    /// ENCLAVE_STATS=1 started it, and nobody has called start since.
    var isFromEnvironment = false
  }

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> = {
    let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 16)
    unsafe word.initialize(repeating: 0, count: 16)
    return unsafe word
  }()
  nonisolated(unsafe) private static let state: UnsafeMutablePointer<State> = {
    let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
    unsafe state.initialize(to: State())
    return unsafe state
  }()

  /// Runs `body` under the registry's lock. A forked child starts with an empty registry, without its
  /// parent's arenas, vaults and page. Another thread may have been changing the lists when it was
  /// forked, so they are abandoned, not released.
  static func with<R: ~Copyable, E: Error>(
    _ body: (inout State) throws(E) -> R
  ) throws(E) -> R {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    let process = ProcessFacts.pid
    if unsafe state.pointee.process != process {
      if unsafe state.pointee.process != 0 {
        KeyPool.forget()
        unsafe state.initialize(to: State(succeeding: state.pointee))
      }
      unsafe state.pointee.process = process
    }
    return unsafe try body(&state.pointee)
  }

  // MARK: - Arenas

  static func add(
    name: Label, options: Arena.Options, kind: KeyKind = .writable
  ) throws(EnclaveError) -> ArenaReference {
    try startFromEnvironment()
    // A signal is ending the process.
    if WipeTable.hasBegun { throw .destroyed }
    if options.isTagged {
      do throws(SystemFailure) { try Probe.memoryTagging() } catch {
        throw .unsupported(.memoryTagging, error)
      }
    }
    if options.backing == .secret {
      do throws(SystemFailure) { try Probe.secretMemory() } catch {
        throw .unsupported(.secretMemory, error)
      }
    }
    var seed: (UInt64, UInt64) = (0, 0)
    do {
      unsafe try withUnsafeMutableBytes(of: &seed) { raw throws(SystemFailure) in
        unsafe try fillRandom(raw.baseAddress!, byteCount: 16)
      }
    } catch { throw .system(error) }
    return try with { state throws(EnclaveError) in
      try prepare(&state)
      let (mechanism, key) = try mechanism(options, kind)
      let arena = ArenaReference.make(
        id: state.nextArena, name: name, options: options, mechanism: mechanism, key: key,
        canaries: Canaries(seed: seed), generation: state.generation)
      state.nextArena += 1
      state.arenas.append(arena)
      if let publication = state.publication {
        arena.attach(
          publication.file.writer,
          publishesAddresses: publication.addresses != .never && !publication.addressesLost,
          followsDumpable: publication.addresses == .whileDumpable)
        publication.file.writer.event(.arenaCreated, arena: arena.id)
        heartbeat(&state)
      }
      return arena
    }
  }

  /// What closes an arena on this machine.
  private static func mechanism(
    _ options: Arena.Options, _ kind: KeyKind
  ) throws(EnclaveError) -> (GateKind, Int?) {
    switch options.gate {
    case .none: return (.none, nil)
    case .pages: return (.pages, nil)
    case .key, .automatic:
      do {
        return (.key, try KeyPool.take(kind, isExclusive: options.keySharing == .never))
      } catch {
        if options.gate == .automatic, options.keySharing == .allowed { return (.pages, nil) }
        throw .unsupported(.protectionKeys, error)
      }
    }
  }

  /// What the first arena and the first page need: to notice forks, and the exit.
  private static func prepare(_ state: inout State) throws(EnclaveError) {
    if !state.hasExitHandler {
      do throws(SystemFailure) {
        try perform(.watchExit) { StatsPageCalls.atExit { asLibrary { Registry.leave() } } }
      } catch { throw .system(error) }
      state.hasExitHandler = true
    }
    do { state.generation = try ForkWatch.prepare() } catch { throw .system(error) }
  }

  /// Takes a destroyed arena off the list and the page.
  static func remove(_ arena: ArenaReference) {
    with { state in
      guard let index = state.arenas.firstIndex(where: { unsafe $0.header == arena.header }) else {
        return
      }
      state.arenas.remove(at: index)
      state.destroyed += 1
      arena.detach()
      state.publication?.file.writer.event(.arenaDestroyed, arena: arena.id)
      heartbeat(&state)
    }
  }

  /// Counts a sealed mapping whose arena is gone. The caller holds an arena's locks, so the counts
  /// have no lock of their own: they are added to atomically.
  static func retire(byteCount: Int) {
    unsafe addRelaxed(1, to: retired)
    unsafe addRelaxed(UInt64(byteCount), to: retired + 1)
  }

  nonisolated(unsafe) private static let retired: UnsafeMutablePointer<UInt64> = {
    let counts = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
    unsafe counts.initialize(repeating: 0, count: 2)
    return unsafe counts
  }()

  /// Calls `body` for each arena of now, without the registry's lock: an arena that is released
  /// meanwhile keeps its metadata until the walk is past it.
  private static func forEachArena(_ body: (ArenaReference) -> Void) {
    let arenas = with { state in
      for arena in state.arenas { arena.retain() }
      return state.arenas
    }
    for arena in arenas {
      body(arena)
      arena.release()
    }
  }

  /// Zeros over every arena, without waiting for anybody: the process is ending.
  static func wipeNow() { forEachArena { $0.wipeNow()?.complain() } }

  /// Zeros over every arena, which stay mapped and can never be used again. Returns what could not be
  /// wiped.
  @discardableResult
  package static func wipeEverything() -> [EmergencyWipe.Failure] {
    var failures: [EmergencyWipe.Failure] = []
    forEachArena { arena in
      if let failure = arena.wipeAndKeep() { failures.append(failure) }
    }
    with { state in state.publication?.file.writer.event(.wiped) }
    return failures
  }

  /// Writes the page's counts as they are now.
  package static func refresh() {
    with { state in
      guard state.publication != nil else { return }
      for arena in state.arenas { arena.refresh() }
      heartbeat(&state)
    }
  }

  // MARK: - Publishing

  private static func startFromEnvironment() throws(EnclaveError) {
    let wanted = with { state in
      if state.hasReadEnvironment { return false }
      state.hasReadEnvironment = true
      return state.publication == nil && ProcessFacts.environment("ENCLAVE_STATS") == "1"
    }
    guard wanted else { return }
    // Watching is never a reason for the watched program to fail: the failure is counted with its
    // call, and memwatch finds no page.
    if let number = try? startPublishing(options: StatsPublisher.Options()) {
      with { state in
        if state.publication?.number == number {
          state.publication!.isKept = true
          state.publication!.isFromEnvironment = true
        }
      }
    }
  }

  static func startPublishing(options: StatsPublisher.Options) throws(EnclaveError) -> UInt64 {
    try with { state throws(EnclaveError) in
      if let publication = state.publication {
        // What ENCLAVE_STATS=1 started becomes the caller's, once.
        guard publication.isFromEnvironment else { throw .alreadyPublishing }
        state.publication!.isFromEnvironment = false
        state.publication!.isKept = false
        if options.addresses == .never {
          state.publication!.addresses = .never
          for arena in state.arenas { arena.withholdAddresses() }
          heartbeat(&state)
        }
        if let name = options.name { publication.file.rename(unsafe Array(name.bytes)) }
        return publication.number
      }
      try prepare(&state)
      var capacities = StatsPageCapacities()
      capacities.secrets = max(0, options.listedSecrets)
      capacities.arenas = max(1, options.listedArenas)
      let isDumpable = try? ProcessFacts.isDumpable()
      let arenas = state.arenas.count
      let destroyed = state.destroyed
      let addresses: AddressCode =
        switch options.addresses {
        case .never: .withheld
        case .always: .published
        case .whileDumpable: isDumpable == true ? .published : .withheld
        }
      let file: StatsPageFile
      do throws(StatsPageFailure) {
        file = try StatsPageFile.create(
          in: DirectoryCandidate.forPublisher(), capacities: capacities,
          processName: options.name.map { unsafe Array($0.bytes) }
            ?? ProcessFacts.commandName(),
          geometry: SizeClass.all.map {
            StatsPageGeometry(
              payload: $0.payload, slabBytes: $0.slabPages * Page.size,
              slots: $0.slots(pageSize: Page.size))
          }, tickMs: Int(options.tickMilliseconds)
        ) { writer in
          writer.write(
            StatsPageWriter.Heartbeat(
              state: .live, memlock: try? ProcessFacts.memlockLimit(),
              lockedBytes: ProcessFacts.lockedBytes(), arenas: arenas,
              arenasDestroyed: destroyed, addresses: addresses, isDumpable: isDumpable))
        }
      } catch {
        switch error {
        case .system(let failure): throw .system(failure)
        case .unsuitable(let path, let reason):
          throw .unsuitableDirectory(path: path, reason: reason)
        }
      }
      let number = state.nextPublication
      state.nextPublication += 1
      var publication = Publication(
        number: number, file: file, addresses: options.addresses,
        tickMs: options.tickMilliseconds)
      publication.addressesLost = addresses == .withheld
      state.publication = publication
      unsafe WipeTable.report(to: file.writer.wipeWords)
      do throws(SystemFailure) {
        try perform(.startThread) {
          unsafe StatsPageCalls.startTicker(
            named: "enclave-stats", everyMs: options.tickMilliseconds,
            context: UnsafeMutableRawPointer(bitPattern: UInt(number))
          ) { number in
            asLibrary { Registry.tick(UInt64(UInt(bitPattern: number))) ? 1 : 0 }
          }
        }
      } catch {
        stop(&state)
        throw .system(error)
      }
      for arena in state.arenas {
        arena.attach(
          file.writer, publishesAddresses: addresses == .published,
          followsDumpable: options.addresses == .whileDumpable)
      }
      file.writer.event(.publishingStarted)
      heartbeat(&state)
      return number
    }
  }

  /// Publishes until the process ends, whoever started it.
  static func keep(_ number: UInt64) {
    with { state in
      if state.publication?.number == number { state.publication?.isKept = true }
    }
  }

  /// Stops publishing, whoever started it.
  package static func stopPublishing() { with { state in stop(&state) } }

  static func stopPublishing(_ number: UInt64) {
    with { state in
      guard let publication = state.publication, publication.number == number, !publication.isKept
      else { return }
      stop(&state)
    }
  }

  /// The page of a publication; nil when it has ended.
  static func page(_ number: UInt64) -> (path: String, isLost: Bool)? {
    with { state in
      guard let publication = state.publication, publication.number == number else { return nil }
      return (publication.file.path, StatsPageCalls.isPageLost)
    }
  }

  private static func stop(_ state: inout State) {
    guard let publication = state.publication else { return }
    defer { state.listedVaults = 0 }
    for arena in state.arenas {
      arena.detach()
    }
    heartbeat(&state, ending: true)
    publication.file.unlink()
    unsafe WipeTable.report(to: nil)
    state.publication = nil
    StatsPageCalls.unguardPage()
    unsafe StatsPageCalls.unmap(publication.file.base, publication.file.writer.layout.byteCount)
    publication.file.close()
  }

  /// At exit the page says that its publisher left, and loses its name; then everything is wiped.
  /// Page and arenas stay mapped: other threads may still be running.
  private static func leave() {
    guard ForkWatch.current != 0 else { return }
    with { state in
      guard let publication = state.publication else { return }
      for arena in state.arenas { arena.refresh() }
      heartbeat(&state, ending: true)
      publication.file.unlink()
    }
    forEachArena { arena in
      if !arena.options.isKeptAtExit { arena.wipeAndKeep()?.complain() }
    }
  }

  /// Called by the ticker's thread. False ends it.
  private static func tick(_ number: UInt64) -> Bool {
    with { state in
      guard state.publication?.number == number else { return false }
      if StatsPageCalls.isPageLost { return false }
      StatsPageCalls.keepPageGuarded()
      state.publication!.file.writer.advanceClock()
      state.publication!.ticks &+= 1
      if state.publication!.addresses == .whileDumpable, !state.publication!.addressesLost,
        (try? ProcessFacts.isDumpable()) != true
      {
        state.publication!.addressesLost = true
        state.publication!.file.writer.event(.addressesLost)
        for arena in state.arenas {
          arena.withholdAddresses()
        }
      }
      // What the page does not list one by one is counted under its labels, ten times as seldom.
      let all = state.publication!.ticks % 10 == 0
      for arena in state.arenas where all || arena.isListed { arena.refresh() }
      heartbeat(&state)
      lockLater(&state)
      return true
    }
  }

  /// Once a second: what could not be locked is locked when the limit was raised since.
  private static func lockLater(_ state: inout State) {
    guard let publication = state.publication,
      publication.ticks % UInt64(max(1, 1000 / publication.tickMs)) == 0,
      let soft = (try? ProcessFacts.memlockLimit())?.soft, let locked = publication.lockedBytes
    else { return }
    var headroom = soft == .max ? .max : soft > locked ? soft - locked : 0
    for arena in state.arenas {
      headroom = arena.lockLater(headroom: headroom)
    }
  }

  private static func heartbeat(_ state: inout State, ending: Bool = false) {
    guard let publication = state.publication else { return }
    // /proc/self/status takes some 15 µs: once a second is enough.
    let perSecond = UInt64(max(1, 1000 / publication.tickMs))
    if publication.ticks % perSecond == 0 || ending {
      state.publication!.lockedBytes = ProcessFacts.lockedBytes()
    }
    let vaultsUnlisted = writeVaults(&state, publication.file.writer)
    let addresses: AddressCode =
      publication.addresses == .never
      ? .withheld : publication.addressesLost ? .lost : .published
    unsafe publication.file.writer.write(
      StatsPageWriter.Heartbeat(
        state: ending ? .closed : .live, memlock: try? ProcessFacts.memlockLimit(),
        lockedBytes: state.publication!.lockedBytes, arenas: state.arenas.count,
        arenasDestroyed: state.destroyed, addresses: addresses,
        isDumpable: try? ProcessFacts.isDumpable(),
        retiredMappings: loadRelaxed(retired), retiredBytes: loadRelaxed(retired + 1),
        vaultsUnlisted: vaultsUnlisted))
  }
}

// What is process-wide by nature: the fork generation, the list of arenas, the one publisher.

import EnclaveStats
import EnclaveSystem

/// The process' registry. Everything in it is reached under one lock word, which is held to change lists
/// and to write the page, never across a call that maps, locks, unmaps, opens files or starts threads.
/// `withPublishing` covers those that start and end a page. The order of locks is publishing, registry,
/// arena.
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
    /// How a forked child will publish, until it does.
    var coming: StatsPublisher.Options?
    var triesToPublish = 0
    /// Of a forked child, as it was when it was made: some programs clear their environment.
    var environment: StatsPageEnvironment?

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
    /// Whose directory the page lies in, or was last tried to.
    var user: UInt32
    var options: StatsPublisher.Options
    var addresses: StatsPublisher.Addresses
    var addressesLost = false
    var tickMs: UInt32
    var ticks: UInt64 = 0
    var lockedBytes: UInt64?
    var isKept = false
    /// ENCLAVE_STATS=1 started it, and nobody has called start since.
    var isFromEnvironment = false
  }

  nonisolated(unsafe) private static let word: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()
  nonisolated(unsafe) private static let publishingWord: UnsafeMutablePointer<UInt32> =
    unsafe makeLockWord()

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

  /// Runs `body` while nobody else starts, moves or ends the page: for as long as its files take. Who
  /// makes and destroys arenas does not wait for it.
  static func withPublishing<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    unsafe lockInProcess(publishingWord)
    defer { unsafe unlock(publishingWord) }
    return try body()
  }

  // MARK: - Forks

  /// Takes the registry's lock for as long as the process forks; the arenas that the child will have. nil,
  /// and no lock, where there are none. (The state is this process': it has an arena.)
  static func beginFork() -> [ArenaReference]? {
    unsafe lockInProcess(word)
    let arenas = unsafe state.pointee.arenas.filter { $0.options.isInheritedByFork }
    if !arenas.isEmpty, unsafe state.pointee.process == ProcessFacts.pid { return arenas }
    unsafe unlock(word)
    return nil
  }

  static func endFork() { unsafe unlock(word) }

  /// In the child, whose locks the thread still holds: an own state, with the arenas that it inherits.
  /// How it publishes; nil where its parent does not.
  static func succeed(with arenas: [ArenaReference]) throws(EnclaveError) -> StatsPublisher.Options?
  {
    let publication = unsafe state.pointee.publication
    var own = unsafe State(succeeding: state.pointee)
    try prepare(&own)
    own.arenas = arenas
    own.process = ProcessFacts.pid
    own.coming = unsafe publication?.options ?? state.pointee.coming
    if own.coming != nil {
      own.hasReadEnvironment = true
      own.environment = unsafe state.pointee.environment ?? StatsPageEnvironment()
    }
    KeyPool.forget()
    unsafe state.initialize(to: own)
    publication?.file.close()
    return own.coming
  }

  // MARK: - Arenas

  static func add(
    name: Label, options: Arena.Options, kind: KeyKind = .writable
  ) throws(EnclaveError) -> ArenaReference {
    try startFromEnvironment()
    // A signal is ending the process.
    if WipeTable.hasBegun { throw .destroyed }
    if let capacity = options.capacity, capacity < Page.size {
      throw .capacity(inUse: 0, limit: capacity)
    }
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
    let (id, generation) = try with { state throws(EnclaveError) in
      try prepare(&state)
      defer { state.nextArena += 1 }
      return (state.nextArena, state.generation)
    }
    let (mechanism, key) = try mechanism(options, kind)
    let arena: ArenaReference
    do throws(SystemFailure) {
      try Metadata.expectRoom()
      arena = try ArenaReference.make(
        id: id, name: name, options: options, mechanism: mechanism, key: key,
        canaries: Canaries(seed: seed), generation: generation)
    } catch {
      if let key { KeyPool.giveBack(key) }
      throw .system(error)
    }
    with { state in
      state.arenas.append(arena)
      guard let publication = state.publication else { return }
      arena.attach(
        publication.file.writer,
        publishesAddresses: publication.addresses != .never && !publication.addressesLost,
        followsDumpable: publication.addresses == .whileDumpable)
      publication.file.writer.event(.arenaCreated, arena: arena.id)
      heartbeat(&state)
    }
    return arena
  }

  /// What closes an arena on this machine.
  private static func mechanism(
    _ options: Arena.Options, _ kind: KeyKind
  ) throws(EnclaveError) -> (GateKind, Int?) {
    switch options.gate {
    case .none: return (.none, nil)
    case .pages: return (.pages, nil)
    case .cipher:
      guard SlotCipher.preferred != nil else { throw .cipherUnavailable("a cipher gate") }
      return (.cipher, nil)
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
  static func prepare(_ state: inout State) throws(EnclaveError) {
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

  nonisolated(unsafe) static let retired: UnsafeMutablePointer<UInt64> = {
    let counts = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
    unsafe counts.initialize(repeating: 0, count: 2)
    return unsafe counts
  }()

  /// Calls `body` for each arena of now, without the registry's lock: an arena that is released
  /// meanwhile keeps its metadata until the walk is past it.
  static func forEachArena(_ body: (ArenaReference) -> Void) {
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
  static func wipeNow() {
    forEachArena { $0.wipeNow()?.complain() }
  }

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
    refreshArenas { _ in true }
    with { heartbeat(&$0) }
  }
}

// Process-wide state: the fork generation, the list of arenas, and the publisher.

import EnclaveStats
import EnclaveSystem

/// The process's registry. One lock guards all of it. The lock is held to change lists and to write
/// the stats page, never across a call that maps, locks, unmaps, opens files or starts threads.
/// `withPublishing` serialises those calls for starting and ending a page. Lock order: publishing,
/// registry, arena.
package enum Registry {
  @safe
  struct State {
    var generation: UInt64 = 0
    var arenas: [ArenaReference] = []
    var vaults: [KnownVault] = []
    /// How many vault records are in use.
    var listedVaults = 0

    var nextArena: UInt64 = 1
    var destroyed: UInt64 = 0
    var publication: Publication?
    var hasReadEnvironment = false
    var hasExitHandler = false
    var nextPublication: UInt64 = 1
    /// The pid of the process that this state belongs to; 0 before the first use.
    var process: Int32 = 0
    /// How a forked child will publish; nil once it does.
    var pendingOptions: StatsPublisher.Options?
    var publishAttempts = 0
    /// In a forked child, the environment at the fork: some programs clear theirs.
    var environment: StatsPageEnvironment?

    init() {}

    /// The initial state of a forked child: numbering continues, and exit handlers were inherited.
    init(childOf parent: borrowing State) {
      nextArena = parent.nextArena
      nextPublication = parent.nextPublication
      hasExitHandler = parent.hasExitHandler
    }
  }

  @safe
  struct Publication {
    var number: UInt64
    var file: StatsPageFile
    /// The user whose directory holds the page, or was tried last.
    var user: UInt32
    var options: StatsPublisher.Options
    /// The program has closed the page's descriptor, and no other page could be created.
    var isUnlocked = false
    var addresses: StatsPublisher.Addresses
    var addressesLost = false
    var tickMs: UInt32
    var ticks: UInt64 = 0
    var ticksPerSecond: UInt64 { UInt64(max(1, 1000 / tickMs)) }
    var lockedBytes: UInt64?
    var isKept = false
    /// Started by ENCLAVE_STATS=1, and the program has not called start since.
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

  /// Runs `body` under the registry's lock. A forked child starts with an empty registry, without
  /// its parent's arenas, vaults and page. Another thread may have been changing the lists at the
  /// fork, so they are leaked, not freed.
  static func with<R: ~Copyable, E: Error>(
    _ body: (inout State) throws(E) -> R
  ) throws(E) -> R {
    unsafe lockInProcess(word)
    defer { unsafe unlock(word) }
    let process = ProcessFacts.pid
    if unsafe state.pointee.process != process {
      if unsafe state.pointee.process != 0 {
        KeyPool.releaseAll()
        unsafe state.initialize(to: State(childOf: state.pointee))
      }
      unsafe state.pointee.process = process
    }
    return unsafe try body(&state.pointee)
  }

  /// Runs `body` while no other thread starts, moves or ends the stats page, including its file
  /// operations. Creating and destroying arenas does not wait for it.
  static func withPublishing<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    unsafe lockInProcess(publishingWord)
    defer { unsafe unlock(publishingWord) }
    return try body()
  }

  // MARK: - Forks

  /// Takes the registry's lock for the duration of a fork, and returns the arenas that the child
  /// inherits. Returns nil, without the lock, if there are none.
  static func beginFork() -> [ArenaReference]? {
    unsafe lockInProcess(word)
    let arenas = unsafe state.pointee.arenas.filter { $0.options.isInheritedByFork }
    if !arenas.isEmpty, unsafe state.pointee.process == ProcessFacts.pid { return arenas }
    unsafe unlock(word)
    return nil
  }

  static func endFork() { unsafe unlock(word) }

  /// Whether there are arenas of an adopted program, or of a whole heap.
  static var hasAdopted: Bool { with { $0.arenas.contains { $0.options.isInheritedByFork } } }

  /// In the child, where the forking thread still holds the locks: sets up the child's own registry
  /// with the inherited arenas. Returns how the child should publish; nil if its parent does not.
  static func adoptInChild(_ arenas: [ArenaReference]) throws(EnclaveError) -> StatsPublisher
    .Options?
  {
    let publication = unsafe state.pointee.publication
    var own = unsafe State(childOf: state.pointee)
    try prepare(&own)
    own.arenas = arenas
    own.process = ProcessFacts.pid
    own.pendingOptions = unsafe publication?.options ?? state.pointee.pendingOptions
    if own.pendingOptions != nil {
      own.hasReadEnvironment = true
      own.environment = unsafe state.pointee.environment ?? StatsPageEnvironment()
    }
    KeyPool.releaseAll()
    unsafe state.initialize(to: own)
    publication?.file.close()
    return own.pendingOptions
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
      try Metadata.requireRoom()
      arena = try ArenaReference.make(
        id: id, name: name, options: options, mechanism: mechanism, key: key,
        canaries: Canaries(seed: seed), generation: generation)
    } catch {
      if let key { KeyPool.release(key) }
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

  /// Chooses the mechanism and the key that close an arena on this machine.
  private static func mechanism(
    _ options: Arena.Options, _ kind: KeyKind
  ) throws(EnclaveError) -> (GateKind, Int?) {
    switch options.gate {
    case .none: return (.none, nil)
    case .pages: return (.pages, nil)
    case .cipher:
      guard AEAD.preferredForSlots != nil else {
        throw .cipherUnavailable("a cipher gate (libsodium, with the package trait Sodium)")
      }
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

  /// Sets up what the first arena or page needs: fork detection and the exit handler.
  static func prepare(_ state: inout State) throws(EnclaveError) {
    if !state.hasExitHandler {
      do throws(SystemFailure) {
        try perform(.watchExit) { StatsPageCalls.atExit { asLibrary { Registry.atExit() } } }
      } catch { throw .system(error) }
      state.hasExitHandler = true
    }
    do { state.generation = try ForkWatch.prepare() } catch { throw .system(error) }
  }

  /// Removes a destroyed arena from the list and the stats page.
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

  /// Counts a sealed mapping of a destroyed arena, which stays mapped. Atomic, because the caller
  /// holds an arena's locks and so cannot take the registry's.
  static func countRetiredMapping(byteCount: Int) {
    unsafe addRelaxed(1, to: retired)
    unsafe addRelaxed(UInt64(byteCount), to: retired + 1)
  }

  nonisolated(unsafe) static let retired: UnsafeMutablePointer<UInt64> = {
    let counts = UnsafeMutablePointer<UInt64>.allocate(capacity: 2)
    unsafe counts.initialize(repeating: 0, count: 2)
    return unsafe counts
  }()

  /// Calls `body` for each current arena, without holding the registry's lock. An arena that is
  /// released meanwhile keeps its memory until it has been visited.
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

  /// Overwrites every arena with zeros, without waiting: the process is ending.
  static func wipeNow() {
    forEachArena { $0.wipeNow()?.printToStandardError() }
  }

  /// Overwrites every arena with zeros. They stay mapped and can never be used again. Returns what
  /// could not be wiped.
  @discardableResult
  package static func wipeEverything() -> [EmergencyWipe.Failure] {
    var failures: [EmergencyWipe.Failure] = []
    forEachArena { arena in
      if let failure = arena.wipeAndKeep() { failures.append(failure) }
    }
    with { state in state.publication?.file.writer.event(.wiped) }
    return failures
  }

  /// Publishes the current counts.
  package static func refresh() {
    refreshArenas { _ in true }
    with { heartbeat(&$0) }
  }
}

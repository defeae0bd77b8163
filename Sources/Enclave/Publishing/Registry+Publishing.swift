// A process's publisher: its page, its thread, and its end.

import EnclaveStats
import EnclaveSystem

extension Registry {
  static func startFromEnvironment() throws(EnclaveError) {
    let wanted = with { state in
      if state.hasReadEnvironment { return false }
      state.hasReadEnvironment = true
      return state.publication == nil && ProcessFacts.environment("ENCLAVE_STATS") == "1"
    }
    guard wanted else { return }
    // Publishing must never make the program fail: a failure is counted with its call, and memwatch
    // finds no page.
    if (try? startPublishing(options: StatsPublisher.Options(), isFromEnvironment: true)) != nil {
      KeptStatus.keep()
    }
  }

  static func startPublishing(
    options: StatsPublisher.Options, isFromEnvironment: Bool = false
  ) throws(EnclaveError) -> UInt64 {
    try withPublishing { () throws(EnclaveError) in
      if let number = try takeOver(options) { return number }
      let (file, addresses) = try makePage(options)
      let number = with { state in
        let number = state.nextPublication
        state.nextPublication += 1
        var publication = Publication(
          number: number, file: file, user: ProcessFacts.uid, options: options,
          addresses: options.addresses, tickMs: options.tickMilliseconds)
        publication.addressesLost = addresses == .withheld
        // Already here, because another thread may take it over at once.
        publication.isFromEnvironment = isFromEnvironment
        publication.isKept = isFromEnvironment
        state.publication = publication
        unsafe WipeTable.report(to: file.writer.wipeWords)
        attachArenas(&state)
        return number
      }
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
        end { _ in true }
        file.removeDirectory()
        throw .system(error)
      }
      return number
    }
  }

  /// Hands a publication started by ENCLAVE_STATS=1 over to the caller, once. Returns nil if nobody
  /// publishes.
  private static func takeOver(_ options: StatsPublisher.Options) throws(EnclaveError) -> UInt64? {
    try with { state throws(EnclaveError) in
      guard let publication = state.publication else {
        try prepare(&state)
        return nil
      }
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
  }

  private static func makePage(
    _ options: StatsPublisher.Options
  ) throws(EnclaveError) -> (StatsPageFile, AddressCode) {
    var capacities = StatsPageCapacities()
    capacities.secrets = max(0, options.listedSecrets)
    capacities.arenas = max(1, options.listedArenas)
    let isDumpable = try? ProcessFacts.isDumpable()
    let (arenas, destroyed, environment) = with {
      ($0.arenas.count, $0.destroyed, $0.environment)
    }
    let addresses: AddressCode =
      switch options.addresses {
      case .never: .withheld
      case .always: .published
      case .whileDumpable: isDumpable == true ? .published : .withheld
      }
    do throws(StatsPageFailure) {
      let file = try StatsPageFile.create(
        in: DirectoryCandidate.forPublisher(environment ?? .init()), capacities: capacities,
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
      return (file, addresses)
    } catch {
      switch error {
      case .system(let failure): throw .system(failure)
      case .unsuitable(let path, let reason):
        throw .unsuitableDirectory(path: path, reason: reason)
      }
    }
  }

  /// Puts all arenas on a newly created page.
  private static func attachArenas(_ state: inout State) {
    guard let publication = state.publication else { return }
    for arena in state.arenas {
      arena.attach(
        publication.file.writer, publishesAddresses: !publication.addressesLost,
        followsDumpable: publication.addresses == .whileDumpable)
    }
    publication.file.writer.event(.publishingStarted)
    heartbeat(&state)
  }

  /// Continues on a new page after the process changed its user, who may not open the old one, or
  /// closed the old page's descriptor. That drops the page's lock, and readers then believe that the
  /// publisher is gone. If no page can be created, the old one stays; see `tick`.
  private static func follow(_ user: UInt32, _ number: UInt64) {
    withPublishing {
      let options = with { state -> StatsPublisher.Options? in
        guard state.publication?.number == number else { return nil }
        state.publication!.user = user
        state.publication!.isUnlocked = state.publication!.file.isUnlocked
        return state.publication!.options
      }
      guard let options else { return }
      guard let (file, addresses) = try? makePage(options) else {
        with { $0.publication?.file.guardAgain() }
        return
      }
      let old = with { state in
        endPage(&state)
        let old = state.publication!.file
        state.publication!.file = file
        state.publication!.isUnlocked = false
        if addresses == .withheld { state.publication!.addressesLost = true }
        unsafe WipeTable.report(to: file.writer.wipeWords)
        attachArenas(&state)
        return old
      }
      old.unlink()
      release(old)
    }
  }

  /// Publishes until the process ends, whoever started it.
  static func keep(_ number: UInt64) {
    with { state in
      if state.publication?.number == number { state.publication?.isKept = true }
    }
  }

  /// Stops publishing, whoever started it.
  package static func stopPublishing() { withPublishing { end { _ in true } } }

  static func stopPublishing(_ number: UInt64) {
    withPublishing { end { $0.number == number && !$0.isKept } }
  }

  /// The page of a publication; nil once it has ended.
  static func page(_ number: UInt64) -> (path: String, isLost: Bool)? {
    with { state in
      guard let publication = state.publication, publication.number == number else { return nil }
      return (publication.file.path, StatsPageCalls.isPageLost)
    }
  }

  /// Ends the publication if `isMeant` returns true. The caller is inside `withPublishing`.
  private static func end(_ isMeant: (Publication) -> Bool) {
    let file = with { state -> StatsPageFile? in
      guard let publication = state.publication, isMeant(publication) else { return nil }
      endPage(&state)
      unsafe WipeTable.report(to: nil)
      state.publication = nil
      return publication.file
    }
    guard let file else { return }
    file.unlink()
    StatsPageCalls.unguardPage()
    release(file)
  }

  /// Writes the last heartbeat to a page. The caller unlinks the file next.
  private static func endPage(_ state: inout State) {
    for arena in state.arenas { arena.detach() }
    heartbeat(&state, ending: true)
    state.listedVaults = 0
  }

  private static func release(_ file: StatsPageFile) {
    unsafe StatsPageCalls.unmap(file.base, file.writer.layout.byteCount)
    file.writer.deallocate()
    file.close()
  }

  /// The exit handler: marks the page as closed, unlinks it, and wipes everything. Page and arenas
  /// stay mapped, because other threads may still be running.
  static func atExit() {
    guard ForkWatch.current != 0 else { return }
    withPublishing {
      refreshArenas { _ in true }
      let file = with { state in
        heartbeat(&state, ending: true)
        return state.publication?.file
      }
      file?.unlink()
    }
    forEachArena { arena in
      if !arena.options.isKeptAtExit { arena.wipeAndKeep()?.printToStandardError() }
    }
  }

  /// Publishes changes in arenas, without the registry's lock. An arena that is taken off the page
  /// meanwhile writes nothing.
  static func refreshArenas(where isMeant: (ArenaReference) -> Bool) {
    guard with({ $0.publication != nil }) else { return }
    forEachArena { if isMeant($0) { $0.refresh() } }
  }

  /// Ends a publication that the environment asked for, because the program filters its system calls
  /// now, and the ticker's thread is not filtered. Returns whether it ended.
  private static func leaveSandbox(_ number: UInt64) -> Bool {
    withPublishing { end { $0.number == number && $0.isFromEnvironment } }
    return with { $0.publication?.number != number }
  }

  /// How many ticks to wait before trying again to replace a page whose descriptor was closed: the
  /// program may have closed those of the new page too, or have had none left.
  private static var ticksBetweenTries: UInt64 { 50 }

  /// Called by the ticker's thread; returning false ends it.
  private static func tick(_ number: UInt64) -> Bool {
    let page = with { state in
      state.publication.flatMap {
        $0.number == number
          ? ($0.user, !$0.isUnlocked || $0.ticks % ticksBetweenTries == 0, $0.file) : nil
      }
    }
    if let (pageUser, isDue, file) = page, let user = ProcessFacts.soleUser,
      pageUser != user || isDue && file.isUnlocked
    {
      follow(user, number)
    }
    let next = with { state -> (ticks: UInt64, watchesFilters: Bool)? in
      guard state.publication?.number == number, !StatsPageCalls.isPageLost else { return nil }
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
      let ticks = state.publication!.ticks
      return (
        ticks,
        state.publication!.isFromEnvironment && ticks % state.publication!.ticksPerSecond == 0
      )
    }
    guard let (ticks, watchesFilters) = next else { return false }
    if watchesFilters {
      KeptStatus.keep()
      if SystemCallFilter.isMissingHere(), leaveSandbox(number) { return false }
    }
    // Arenas without a record only count under labels, so they are updated at every tenth tick.
    refreshArenas { ticks % 10 == 0 || $0.isListed }
    return with { state in
      guard state.publication?.number == number else { return false }
      heartbeat(&state)
      return true
    }
  }

  static func heartbeat(_ state: inout State, ending: Bool = false) {
    guard let publication = state.publication else { return }
    // Reading /proc/self/status takes some 15 µs: once a second is enough.
    if publication.ticks % publication.ticksPerSecond == 0 || ending {
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

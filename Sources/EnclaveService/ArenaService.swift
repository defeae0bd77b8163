// Arenas as a part of a server: published, measured and logged while it runs, destroyed when it stops.

#if Server
  public import CoreMetrics
  public import Enclave
  public import Logging
  public import ServiceLifecycle

  /// Keeps a server's arenas: publishes them for memwatch, measures and logs while the server runs, and
  /// destroys them, in order, after graceful shutdown.
  ///
  /// On graceful shutdown a `ServiceGroup` stops its services in the opposite order, one by one. Put this
  /// one first, and nothing uses a secret any more when its arenas go.
  ///
  /// A group that is cancelled, or in which a service fails, cancels all of them at the same time
  /// (`ServiceGroup.run` calls `cancelAll()`): others may still be using secrets when this one ends. Then the
  /// arenas stay, and are wiped when the process exits; or as soon as the group has ended:
  ///
  /// ```swift
  /// do { try await group.run() } catch {
  ///   try await arenas.destroyArenas()
  ///   throw error
  /// }
  /// ```
  public struct ArenaService: Service {
    public struct Options: Sendable {
      /// How to publish; nil: only where the environment asks for it (ENCLAVE_STATS=1). Where it fails,
      /// the log says so, and the server runs unwatched.
      public var publishing: StatsPublisher.Options? = .init()
      /// Have signals that end the process, and faults, wipe every arena first. Those that the group
      /// turns into a graceful shutdown stay the group's.
      public var wipesOnSignals = false
      /// How often arenas are looked at.
      public var interval: Duration = .seconds(10)
      /// How long to wait for open windows before arenas are destroyed. (They end by themselves: no
      /// window is open across a suspension.)
      public var patience: Duration = .seconds(5)
      /// Log the labels of secrets that were misused. Logs go further than the stats page.
      public var logsLabels = false
      /// What is done about a violation, once it is logged, where the program has set no handler of its
      /// own: else that one is asked.
      public var response: ViolationHandler.Response = .endProcess
      /// Where metrics go; nil: to what the program has bootstrapped. This service bootstraps nothing.
      public var metrics: (any MetricsFactory)?
      public init() {}
    }

    private let arenas: [Arena]
    private let logger: Logger
    private let options: Options

    /// - Parameters:
    ///   - arenas: in the order in which they are to be destroyed.
    ///   - logger: gets violations, failed locks and lost protections, with metadata.
    public init(_ arenas: [Arena], logger: Logger, options: Options = .init()) {
      self.arenas = arenas
      self.logger = logger
      self.options = options
    }

    /// Runs until graceful shutdown, and then destroys the arenas; or until the task is cancelled.
    ///
    /// - Throws: `EnclaveError` when the emergency wipe cannot begin; or the first arena's that could not
    ///   be destroyed. All are tried.
    public func run() async throws {
      if options.wipesOnSignals { try EmergencyWipe.install() }
      let publisher = startPublishing()
      let handler = logViolations()
      let (arenas, logger, options) = (arenas, logger, options)
      await cancelWhenGracefulShutdown {
        var watch = ArenaWatch(
          arenas, logger: logger, factory: options.metrics ?? MetricsSystem.factory)
        while !Task.isCancelled {
          watch.look()
          try? await Task.sleep(for: options.interval)
        }
        watch.look()
      }
      // Cancelled, also in the middle of a graceful shutdown: nobody knows who still uses a secret.
      let failure = Task.isCancelled ? nil : await destroyAll()
      handler.restore()
      if let publisher = consume publisher { publisher.stop() }
      if let failure { throw failure }
    }

    /// Destroys the arenas in order, those that are not destroyed yet: for when the group has ended and
    /// was not shut down gracefully. Waits for open windows without keeping a thread.
    ///
    /// - Throws: the first error of an arena that could not be destroyed. All are tried.
    public func destroyArenas() async throws {
      if let failure = await destroyAll() { throw failure }
    }

    private func startPublishing() -> StatsPublisher? {
      guard let publishing = options.publishing else { return nil }
      do { return try StatsPublisher.start(publishing) } catch .alreadyPublishing {
        logger.debug("the process publishes already, for memwatch")
      } catch {
        logger.warning(
          "arenas are not published: memwatch cannot attach", metadata: ["error": "\(error)"])
      }
      return nil
    }

    private func logViolations() -> ViolationHandler.Replaced {
      let (logger, options) = (logger, options)
      return ViolationHandler.replace { before, violation in
        var metadata: Logger.Metadata = [
          "kind": "\(violation.kind.rawValue)", "arena": "\(violation.arena)",
        ]
        if let byteCount = violation.byteCount { metadata["bytes"] = "\(byteCount)" }
        if let offset = violation.offset { metadata["offset"] = "\(offset)" }
        if options.logsLabels, let label = violation.label { metadata["label"] = "\(label)" }
        logger.critical("memory of an arena was misused", metadata: metadata)
        return before?(violation) ?? options.response
      }
    }

    private func destroyAll() async -> EnclaveError? {
      var first: EnclaveError?
      for arena in arenas {
        do throws(EnclaveError) { try await destroy(arena) } catch {
          if case .destroyed = error { continue }
          logger.error(
            "an arena was not destroyed", metadata: ["arena": "\(arena.name)", "error": "\(error)"])
          first = first ?? error
        }
      }
      return first
    }

    /// Waits for windows as `Arena.destroy(waitingUpTo:)` does, and leaves the thread to others meanwhile:
    /// those that have the windows open may need it.
    private func destroy(_ arena: Arena) async throws(EnclaveError) {
      let end = ContinuousClock.now + options.patience
      while true {
        do throws(EnclaveError) { return try arena.destroy() } catch {
          guard case .windowsOpen = error, ContinuousClock.now < end else { throw error }
        }
        // (Of its own, since this task may be cancelled.)
        await Task.detached { try? await Task.sleep(for: .milliseconds(1)) }.value
      }
    }
  }
#endif

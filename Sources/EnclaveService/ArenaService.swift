// Arenas as a part of a server: published, measured and logged while it runs, destroyed when it stops.

#if Server
  public import CoreMetrics
  public import Enclave
  public import Logging
  public import ServiceLifecycle

  /// Keeps a server's arenas: publishes them for memwatch, measures and logs while the server runs, and
  /// destroys them, in order, after graceful shutdown.
  ///
  /// A `ServiceGroup` stops its services in the opposite order. Put this one first, and nothing uses a
  /// secret any more when its arenas go.
  public struct ArenaService: Service {
    public struct Options: Sendable {
      /// How to publish; nil: only where the environment asks for it (ENCLAVE_STATS=1).
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
      /// What is done about a violation, once it is logged.
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

    /// Runs until graceful shutdown, or until the task is cancelled; then destroys the arenas.
    ///
    /// - Throws: `EnclaveError` when publishing or the emergency wipe cannot begin; or the first arena's
    ///   that could not be destroyed. All are tried.
    public func run() async throws {
      if options.wipesOnSignals { try EmergencyWipe.install() }
      let publisher = try startPublishing()
      logViolations()
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
      let failure = destroyArenas()
      ViolationHandler.set(nil)
      if let publisher = consume publisher { publisher.stop() }
      if let failure { throw failure }
    }

    private func startPublishing() throws(EnclaveError) -> StatsPublisher? {
      guard let publishing = options.publishing else { return nil }
      do { return try StatsPublisher.start(publishing) } catch .alreadyPublishing {
        logger.debug("the process publishes already, for memwatch")
        return nil
      } catch { throw error }
    }

    private func logViolations() {
      let (logger, options) = (logger, options)
      ViolationHandler.set { violation in
        var metadata: Logger.Metadata = [
          "kind": "\(violation.kind.rawValue)", "arena": "\(violation.arena)",
        ]
        if let byteCount = violation.byteCount { metadata["bytes"] = "\(byteCount)" }
        if let offset = violation.offset { metadata["offset"] = "\(offset)" }
        if options.logsLabels, let label = violation.label { metadata["label"] = "\(label)" }
        logger.critical("memory of an arena was misused", metadata: metadata)
        return options.response
      }
    }

    private func destroyArenas() -> EnclaveError? {
      var first: EnclaveError?
      for arena in arenas {
        do throws(EnclaveError) { try arena.destroy(waitingUpTo: options.patience) } catch {
          if case .destroyed = error { continue }
          logger.error(
            "an arena was not destroyed", metadata: ["arena": "\(arena.name)", "error": "\(error)"])
          first = first ?? error
        }
      }
      return first
    }
  }
#endif

// A service that publishes, measures and logs a server's arenas, and destroys them when it stops.

#if Server
  public import CoreMetrics
  public import Enclave
  public import Logging
  public import ServiceLifecycle

  /// Publishes a server's arenas for memwatch, measures and logs them while the server runs, and
  /// destroys them in order after graceful shutdown (swift-service-lifecycle).
  ///
  /// On graceful shutdown a `ServiceGroup` stops its services one by one in reverse order. List
  /// this service first: when it destroys the arenas, nothing uses their secrets any more.
  ///
  /// If the group is cancelled or a service fails, all services are cancelled at the same time
  /// (`ServiceGroup.run` calls `cancelAll()`), and others may still use secrets when this one ends.
  /// The arenas then stay, and are wiped when the process exits. To wipe them as soon as the group
  /// has ended:
  ///
  /// ```swift
  /// do { try await group.run() } catch {
  ///   try await arenas.destroyArenas()
  ///   throw error
  /// }
  /// ```
  ///
  /// Threads: `run()` is called once; `destroyArenas()` may be called from any task.
  public struct ArenaService: Service {
    /// What the service does, and how often.
    public struct Options: Sendable {
      /// How to publish; nil: only with ENCLAVE_STATS=1 in the environment. A failure is logged,
      /// and the server runs without publishing.
      public var publishing: StatsPublisher.Options? = .init()
      /// Make terminating signals and faults wipe every arena first (`EmergencyWipe.install`).
      /// Signals that the group handles as graceful shutdown are left to it.
      public var wipesOnSignals = false
      /// The interval of measuring and logging; the default is 10 seconds.
      public var interval: Duration = .seconds(10)
      /// How long to wait for an arena's open windows before destroying it fails; the default is 5
      /// seconds. (No window stays open across a suspension, so windows end soon.)
      public var patience: Duration = .seconds(5)
      /// Log the labels of misused secrets. Logs may reach more readers than the stats page.
      public var logsLabels = false
      /// The response to a violation after it was logged. If the program has set its own violation
      /// handler, that one decides instead.
      public var response: ViolationHandler.Response = .endProcess
      /// The factory of metrics; nil: the one that the program bootstrapped. This service
      /// bootstraps none.
      public var metrics: (any MetricsFactory)?
      /// The default options.
      public init() {}
    }

    private let arenas: [Arena]
    private let logger: Logger
    private let options: Options

    /// Creates the service; it does nothing until it runs.
    ///
    /// - Parameters:
    ///   - arenas: the arenas, in the order in which they are destroyed.
    ///   - logger: receives violations, failed locks and pages that could not be closed, with
    ///     metadata.
    ///   - options: what the service does, and how often.
    public init(_ arenas: [Arena], logger: Logger, options: Options = .init()) {
      self.arenas = arenas
      self.logger = logger
      self.options = options
    }

    /// Runs until graceful shutdown and then destroys the arenas, or until the task is cancelled.
    ///
    /// - Throws: `EnclaveError` if the emergency wipe cannot be installed, or for the first arena
    ///   that could not be destroyed; the others are destroyed anyway.
    public func run() async throws {
      if options.wipesOnSignals { try EmergencyWipe.install() }
      let publisher = startPublishing()
      let handler = logViolations()
      let (arenas, logger, options) = (arenas, logger, options)
      await cancelWhenGracefulShutdown {
        var watch = ArenaWatch(
          arenas, logger: logger, factory: options.metrics ?? MetricsSystem.factory)
        while !Task.isCancelled {
          watch.sample()
          try? await Task.sleep(for: options.interval)
        }
        watch.sample()
      }
      // After a cancellation, even during a graceful shutdown, other services may still use
      // secrets.
      let failure = Task.isCancelled ? nil : await destroyAll()
      handler.restore()
      if let publisher = consume publisher { publisher.stop() }
      if let failure { throw failure }
    }

    /// Destroys, in order, the arenas that are not destroyed yet. Call it after the group has ended
    /// without a graceful shutdown. Waits for open windows without blocking a thread.
    ///
    /// - Throws: the error of the first arena that could not be destroyed; the others are destroyed
    ///   anyway.
    public func destroyArenas() async throws {
      if let failure = await destroyAll() { throw failure }
    }

    private func startPublishing() -> StatsPublisher? {
      guard let publishing = options.publishing else { return nil }
      do { return try StatsPublisher.start(publishing) } catch .alreadyPublishing {
        logger.debug("the process already publishes")
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

    /// Waits for windows like `Arena.destroy(waitingUpTo:)`, but suspends instead of blocking the
    /// thread, which the tasks with open windows may need.
    private func destroy(_ arena: Arena) async throws(EnclaveError) {
      let end = ContinuousClock.now + options.patience
      while true {
        do throws(EnclaveError) { return try arena.destroy() } catch {
          guard case .windowsOpen = error, ContinuousClock.now < end else { throw error }
        }
        // In a separate task, because sleeping in a cancelled task returns at once.
        await Task.detached { try? await Task.sleep(for: .milliseconds(1)) }.value
      }
    }
  }
#endif

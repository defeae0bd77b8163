// The main loop: sample, draw, wait for a key or the next sample.

import Glibc
package import MemwatchInspector

package struct ScreenSettings: Sendable {
  package var intervalMs: Int
  package var forceASCII: Bool
  package var useColor: Bool
  /// Whether alerts ring the bell.
  package var rings = false
  /// The program to start for each alert.
  package var onAlert: String?
  /// Whether the mouse is used; selecting text in the terminal then needs Shift.
  package var usesMouse = false
  /// How long a window may stay open before a warning.
  package var openLimitMs: UInt64 = 60_000
  /// Settings from the configuration file, and a message about its errors.
  package var configuration = Configuration()
  package var notice: String?
  package init(intervalMs: Int, forceASCII: Bool, useColor: Bool) {
    self.intervalMs = intervalMs
    self.forceASCII = forceASCII
    self.useColor = useColor
  }
}

package enum Screen {
  package enum Start {
    case attached(Inspector)
    case picking
    /// The samples of a record, at least one.
    case replay([Snapshot])
    case waiting(Wait)
  }

  /// Waiting for a publisher.
  package struct Wait {
    /// The publisher's name or pid, for the header.
    package var what: String
    /// Tries once to attach.
    package var find: () -> Inspector?
    /// Whether waiting still makes sense.
    package var canStillAppear: () -> Bool
    package init(
      what: String, find: @escaping () -> Inspector?, canStillAppear: @escaping () -> Bool
    ) {
      (self.what, self.find, self.canStillAppear) = (what, find, canStillAppear)
    }
  }

  package struct End: Sendable {
    package var lastState: PublisherState?
    /// `memwatch run`: the user chose to leave the command running.
    package var leaveRunning = false
    /// The publisher did not appear.
    package var publisherDidNotAppear = false
  }

  /// Writes a snapshot or a view to a new file. Returns an error message, or nil.
  package typealias Writer = (Export, String) -> String?

  /// Starts a recording in a new file. Returns a closure that takes each sample and returns an
  /// error message, or nil.
  package typealias Recorder = (String) -> Result<(Snapshot) -> String?, ScreenFailure>

  /// A command started by `memwatch run`.
  package struct Child {
    package var pid: Int32
    /// `output`: the lines of its log so far. `status`: its exit status; nil while it runs.
    package var output: () -> [String]
    package var status: () -> Int32?
    package init(
      pid: Int32, output: @escaping () -> [String], status: @escaping () -> Int32?
    ) {
      self.pid = pid
      self.output = output
      self.status = status
    }
  }

  /// A view of the last snapshot; the earlier ones give history and rates.
  private static func model(
    of snapshots: [Snapshot], view: View, host: Host?
  ) -> Model {
    var model = Model(intervalMs: 1000)
    model.isPicture = true
    for snapshot in snapshots { model.update(snapshot) }
    if let host { model.update(host) }
    model.view = view
    model.showsAllLabels = true
    return model
  }

  /// All rows of a view of the last snapshot, as the screen writes them to a file.
  package static func export(
    of snapshots: [Snapshot], view: View, host: Host
  ) -> ViewExport {
    var model = model(of: snapshots, view: view, host: host)
    model.layout.width = 100
    return model.viewExport
  }

  /// An SVG picture of a view of the last snapshot.
  package static func picture(
    of snapshots: [Snapshot], view: View = .arenas, host: Host? = nil, width: Int, height: Int
  ) -> String {
    let model = model(of: snapshots, view: view, host: host)
    let snapshot = snapshots[snapshots.count - 1]
    return Renderer.render(
      model, width: width, height: height, style: Style(unicode: true), now: snapshot.sampledAt
    ).grid.svg
  }

  /// Opens /dev/null for closed standard streams, so that no other file gets their descriptors.
  package static func prepareStreams() { Terminal.prepareStreams() }
  package static var isTerminal: Bool { isatty(1) == 1 }

  /// Why the terminal cannot show a full screen; nil if it can, or if there is no terminal.
  package static let withoutCursor: String? =
    !isTerminal || Terminal.canPlaceCursor
    ? nil : "a terminal of the kind \"\(Terminal.kind)\" (TERM) cannot place its cursor"

  /// Whether standard output is a terminal that can show a full screen.
  package static var isPossible: Bool { isTerminal && withoutCursor == nil }

  /// A terminal ready for drawing: everything that needs opening is open before the sandbox closes.
  package final class Prepared {
    var terminal: Terminal
    let settings: ScreenSettings
    init(_ settings: ScreenSettings) throws(ScreenFailure) {
      terminal = try Terminal(useColor: settings.useColor, useMouse: settings.usesMouse)
      self.settings = settings
    }
  }

  package static func prepare(_ settings: ScreenSettings) throws(ScreenFailure) -> Prepared {
    try Prepared(settings)
  }

  /// Restores the terminal after the drawing process died.
  package struct TerminalRestorer {
    package init() { Terminal.keep() }
    package func restore() { Terminal.restore() }
  }

  /// Runs the screen until the user quits.
  ///
  /// - Parameters:
  ///   - recorder: starts a recording.
  ///   - save: saves settings; returns an error message, or nil.
  ///   - drawn: called with each grid drawn.
  ///   - host: reads the host's settings when they are first shown.
  ///   - notice: a message to show first.
  ///   - alert: called for each new alert; `alertFailure` returns an error message of the last one,
  ///     or nil.
  package static func run(
    _ start: Start, on prepared: Prepared, audits: Bool = true, child: Child? = nil, write: Writer,
    recorder: Recorder = { _ in .failure(ScreenFailure(message: "no record is possible")) },
    save: (SavedSettings) -> String? = { _ in "there is no config file" },
    host: () -> Host = { Host() }, notice: String? = nil,
    alert: (ProblemKind, UInt64?) -> Void = { _, _ in }, alertFailure: () -> String? = { nil },
    drawn: (Grid) -> Void = { _ in }
  ) -> End {
    let settings = prepared.settings
    prepared.terminal.begin()
    defer { prepared.terminal.end() }
    let style = Style(unicode: prepared.terminal.isUTF8 && !settings.forceASCII)
    var model = Model(intervalMs: settings.intervalMs)
    model.openLimitMs = settings.openLimitMs
    model.apply(settings.configuration)
    var inspector: Inspector?
    var recorded: [Snapshot] = []
    var position = -1
    var wait: Wait?
    switch start {
    case .attached(let attached):
      inspector = attached
      inspector?.openLimitMs = settings.openLimitMs
    case .picking: model.view = .processes
    case .replay(let snapshots): recorded = snapshots
    case .waiting(let waited):
      wait = waited
      model.view = .processes
    }
    let beginning = Console.milliseconds
    if let notice = notice ?? settings.notice { model.showMessage(notice) }
    var end = End()
    var nextSample: UInt64 = 0
    var sampledAt: UInt64 = 0
    var intervalMs = model.intervalMs
    var nextClock: UInt64 = 0
    var mustDraw = true
    var wantsAudit = false
    var record: ((Snapshot) -> String?)?
    var others: [UInt64: Inspector] = [:]
    func updateProcesses() {
      let (discovery, summaries) = ProcessSummary.all(&others)
      model.update(discovery, summaries)
    }
    while true {
      let now = Console.milliseconds
      if now >= nextSample {
        if let waited = wait {
          model.waiting = "memwatch  WAITING \((now - beginning) / 1000) s for \(waited.what)"
          if let found = waited.find() {
            (inspector, wait, model.waiting) = (found, nil, nil)
            found.openLimitMs = settings.openLimitMs
            if model.view == .processes { model.view = .arenas }
          } else if !waited.canStillAppear() {
            end.publisherDidNotAppear = true
            return end
          }
          mustDraw = true
        }
        if !model.isPaused {
          if position + 1 < recorded.count {
            position += 1
            model.replay(recorded, at: position)
          }
          if let inspector {
            let auditing: Inspector.Auditing = audits ? .automatic : .never
            model.update(
              inspector.sample(
                auditing: wantsAudit ? .now : auditing, model.detail))
            wantsAudit = false
            if let snapshot = model.lastSample, let failure = record?(snapshot) {
              (record, model.recording) = (nil, nil)
              model.showMessage("the record ended: \(failure)")
            }
            let alerts = model.takeNewAlerts()
            if settings.rings, !alerts.isEmpty { prepared.terminal.ring() }
            for new in alerts { alert(new.kind, new.arenaID) }
            if let failure = alertFailure() { model.showMessage("on alert: \(failure)") }
          }
          mustDraw = true
        }
        if model.view == .processes { updateProcesses() }
        if let child {
          model.output = child.output()
          model.runningChild = child.status() == nil ? child.pid : nil
        }
        sampledAt = now
        nextSample = now + UInt64(wait == nil ? model.intervalMs : min(model.intervalMs, 100))
      }
      if now >= nextClock { mustDraw = true }
      if mustDraw, prepared.terminal.canDraw {
        let size = prepared.terminal.size
        let (grid, layout) = Renderer.render(
          model, width: size.width, height: size.height, style: style,
          now: recorded.isEmpty
            ? Console.now : model.snapshot?.sampledAt ?? Console.now)
        model.layout = layout
        prepared.terminal.draw(grid)
        drawn(grid)
        mustDraw = false
        nextClock = now + 1000
        // The first frame does not wait for the host's settings.
        if model.host == nil, recorded.isEmpty { model.update(host()) }
      }
      // A pending frame waits for the terminal to accept output, not for the clock.
      let pause = mustDraw ? nextSample : min(nextSample, nextClock)
      let isThere = prepared.terminal.wait(
        milliseconds: Int(clamping: pause > now ? pause - now : 0), toDraw: mustDraw)
      if !isThere || prepared.terminal.signal != 0 { break }
      if prepared.terminal.resume() { mustDraw = true }
      // curses reports a resize as a key.
      for key in prepared.terminal.takeKeys() {
        if key == .resize {
          prepared.terminal.redraw()
          mustDraw = true
        } else {
          mustDraw = true
          let before = model.view
          let wasPaused = model.isPaused
          for effect in model.handle(key, now: Console.now) {
            switch effect {
            case .sample: nextSample = 0
            case .audit:
              nextSample = 0
              wantsAudit = true
            case .step(let count):
              position = min(max(0, position + count), recorded.count - 1)
              model.replay(recorded, at: position)
            case .goTo(let time):
              let (found, note) = ReplayTime.index(
                of: time, in: recorded.map(\.sampledAt.realMs), at: position,
                secondOfDay: { secondOfDay(Timestamp(realMs: $0)) })
              if let note { model.showMessage(note) }
              guard let found else { break }
              position = found
              model.replay(recorded, at: position)
            case .copy(let text): prepared.terminal.copy(text)
            case .save(let settings):
              model.showMessage(
                save(settings).map { "not saved: \($0)" } ?? "saved in the config file")
            case .redraw: prepared.terminal.redraw()
            case .write(let path), .writeView(let path):
              guard var snapshot = model.snapshot else { break }
              let failure: String?
              if path.hasSuffix(".svg") {
                let size = prepared.terminal.size
                let (grid, _) = Renderer.render(
                  model, width: size.width, height: size.height, style: style,
                  now: Console.now)
                failure = Console.writeNewFile(grid.svg, to: path)
              } else if effect == .writeView(path) {
                failure = write(.view(model.viewExport), path)
              } else {
                if let inspector, !model.isPaused, !model.isPast { snapshot = inspector.sample() }
                failure = write(.everything(snapshot), path)
              }
              model.showMessage(failure ?? "wrote \(SafeText(path))")
            case .attach(let publisher):
              (wait, model.waiting) = (nil, nil)
              do throws(AttachFailure) {
                inspector = try Inspector.attach(to: publisher)
                inspector?.openLimitMs = settings.openLimitMs
                nextSample = 0
              } catch {
                model.showMessage("that page cannot be read any more")
                model.view = .processes
              }
            case .record(nil):
              model.showMessage("recorded to \(SafeText(model.recording ?? ""))")
              (record, model.recording) = (nil, nil)
            case .record(let path?):
              switch recorder(path) {
              case .success(let begun):
                (record, model.recording) = (begun, path)
                model.showMessage("recording to \(SafeText(path)); R ends it")
              case .failure(let failure): model.showMessage(failure.message)
              }
            case .quit(let leave):
              end.leaveRunning = leave
              end.lastState = model.lastSample?.process.state
              return end
            }
          }
          if model.view == .processes, before != .processes { updateProcesses() }
          // Individual secrets and pages are read only for the views that show them.
          if model.view != before, model.detail != .none { nextSample = 0 }
          if model.isPaused, !wasPaused, let inspector { model.update(inspector.sample()) }
          if model.view == .host, before != .host { model.update(host()) }
        }
      }
      // A changed interval counts from the last sample.
      if model.intervalMs != intervalMs {
        intervalMs = model.intervalMs
        if nextSample != 0, wait == nil { nextSample = sampledAt + UInt64(intervalMs) }
      }
    }
    end.lastState = nil
    return end
  }
}

// The loop: sample, draw, wait for a key or for the next sample.

import Glibc
package import MemwatchInspector

package struct ScreenSettings: Sendable {
  package var intervalMs: Int
  package var forceASCII: Bool
  package var useColor: Bool
  /// Whether alerts ring the bell.
  package var rings = false
  /// The program that is started for each alert.
  package var onAlert: String?
  /// Whether the mouse selects rows and scrolls; the terminal's own selecting then needs Shift.
  package var usesMouse = false
  /// How long a window may stay open before it is told.
  package var openLimitMs: UInt64 = 60_000
  /// What a file says of the lists, and what a person should know of that file.
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

  /// A publisher that is not there yet.
  package struct Wait {
    /// What is waited for.
    package var what: String
    /// Looks once.
    package var find: () -> Inspector?
    /// Whether it may still come.
    package var goesOn: () -> Bool
    package init(
      what: String, find: @escaping () -> Inspector?, goesOn: @escaping () -> Bool
    ) {
      (self.what, self.find, self.goesOn) = (what, find, goesOn)
    }
  }

  package struct End: Sendable {
    package var lastState: PublisherState?
    /// The user chose to leave the command running (`memwatch run`).
    package var leaveRunning = false
    /// What was waited for did not come.
    package var wasInVain = false
  }

  /// Writes a snapshot, or what a view shows, to a new file; what went wrong, or nil.
  package typealias Writer = (Export, String) -> String?

  /// Begins a record in a new file: what takes each sample, or what went wrong. A sample that could
  /// not be written gives a text.
  package typealias Recorder = (String) -> Result<(Snapshot) -> String?, ScreenFailure>

  /// A command that runs under the screen.
  package struct Child {
    package var pid: Int32
    /// The lines of its log now; nil: it has ended, and with which status.
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

  /// A view of the last of some snapshots as a picture.
  package static func picture(
    of snapshots: [Snapshot], view: View = .arenas, host: Host? = nil, width: Int, height: Int
  ) -> String {
    var model = Model(intervalMs: 1000)
    for snapshot in snapshots { model.update(snapshot) }
    if let host { model.update(host) }
    model.view = view
    let snapshot = snapshots[snapshots.count - 1]
    return Renderer.render(
      model, width: width, height: height, style: Style(unicode: true), now: snapshot.sampledAt
    ).grid.svg
  }

  /// Opens what is missing of standard input, output and error, so that no file gets their numbers.
  package static func prepareStreams() { Terminal.prepareStreams() }

  package static var isTerminal: Bool { isatty(1) == 1 }

  /// Why a terminal can show lines and no screen; nil where it can, or where there is none.
  package static let withoutCursor: String? =
    !isTerminal || Terminal.canPlaceCursor
    ? nil : "a terminal of the kind \"\(Terminal.kind)\" (TERM) cannot place its cursor"

  /// Standard output is a terminal that can be drawn on.
  package static var isPossible: Bool { isTerminal && withoutCursor == nil }

  /// A terminal that is ready to be drawn on: what has to be opened is open.
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

  /// Restores the terminal for a process that drew on it and died.
  package struct Keeper {
    package init() { Terminal.keep() }
    package func restore() { Terminal.restore() }
  }

  /// Draws until it is left.
  ///
  /// - Parameters:
  ///   - recorder: begins a record.
  ///   - drawn: is told of each grid that was drawn.
  ///   - host: the settings of the machine, read when they are looked at.
  ///   - notice: what a person should know before anything else.
  ///   - alert: is told of each new alert; what went wrong with the last, or nil.
  package static func run(
    _ start: Start, on prepared: Prepared, audits: Bool = true, child: Child? = nil, write: Writer,
    recorder: Recorder = { _ in .failure(ScreenFailure(message: "no record is possible")) },
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
    model.begin(settings.configuration)
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
    if let notice = notice ?? settings.notice { model.say(notice) }
    var end = End()
    var nextSample: UInt64 = 0
    var sampledAt: UInt64 = 0
    var intervalMs = model.intervalMs
    var nextClock: UInt64 = 0
    var mustDraw = true
    var wantsAudit = false
    var record: ((Snapshot) -> String?)?
    var others: [UInt64: Inspector] = [:]
    func lookAround() {
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
          } else if !waited.goesOn() {
            end.wasInVain = true
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
              model.say("the record ended: \(failure)")
            }
            let alerts = model.takeNewAlerts()
            if settings.rings, !alerts.isEmpty { prepared.terminal.ring() }
            for new in alerts { alert(new.kind, new.arenaID) }
            if let failure = alertFailure() { model.say("on alert: \(failure)") }
          }
          mustDraw = true
        }
        if model.view == .processes { lookAround() }
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
        // The first screen does not wait for it; the next one has it.
        if model.host == nil, inspector != nil { model.update(host()) }
      }
      // What waits to be drawn waits for the terminal, and not for the clock.
      let pause = mustDraw ? nextSample : min(nextSample, nextClock)
      let isThere = prepared.terminal.wait(
        milliseconds: Int(clamping: pause > now ? pause - now : 0), toDraw: mustDraw)
      if !isThere || prepared.terminal.signal != 0 { break }
      if prepared.terminal.resume() { mustDraw = true }
      // A resize comes without input: curses reports it as a key.
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
              let (found, note) = ReplayTime.place(
                of: time, in: recorded.map(\.sampledAt.realMs), at: position,
                secondOfDay: { secondOfDay(Timestamp(realMs: $0)) })
              if let note { model.say(note) }
              guard let found else { break }
              position = found
              model.replay(recorded, at: position)
            case .copy(let text): prepared.terminal.copy(text)
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
                failure = write(.seen(model.seen), path)
              } else {
                if let inspector, !model.isPaused, !model.isPast { snapshot = inspector.sample() }
                failure = write(.everything(snapshot), path)
              }
              model.say(failure ?? "wrote \(SafeText(path))")
            case .attach(let publisher):
              (wait, model.waiting) = (nil, nil)
              do throws(AttachFailure) {
                inspector = try Inspector.attach(to: publisher)
                inspector?.openLimitMs = settings.openLimitMs
                nextSample = 0
              } catch {
                model.say("that page cannot be read any more")
                model.view = .processes
              }
            case .record(nil):
              model.say("recorded to \(SafeText(model.recording ?? ""))")
              (record, model.recording) = (nil, nil)
            case .record(let path?):
              switch recorder(path) {
              case .success(let begun):
                (record, model.recording) = (begun, path)
                model.say("recording to \(SafeText(path)); R ends it")
              case .failure(let failure): model.say(failure.message)
              }
            case .quit(let leave):
              end.leaveRunning = leave
              end.lastState = model.lastSample?.process.state
              return end
            }
          }
          if model.view == .processes, before != .processes { lookAround() }
          // Secrets and pages one by one are read only where they are looked at, or will be.
          if model.view != before, model.detail != .none { nextSample = 0 }
          if model.isPaused, !wasPaused, let inspector { model.update(inspector.sample()) }
          if model.view == .host, before != .host { model.update(host()) }
        }
      }
      // Another interval counts from the sample that is shown.
      if model.intervalMs != intervalMs {
        intervalMs = model.intervalMs
        if nextSample != 0, wait == nil { nextSample = sampledAt + UInt64(intervalMs) }
      }
    }
    end.lastState = nil
    return end
  }
}

// `memwatch manual`: writes the manual page from the options, keys and exit codes in the code.

import ArgumentParser
import FoundationEssentials
import MemwatchTerminal

struct Manual: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes the manual page (mdoc) to standard output.", shouldDisplay: false)

  func run() throws {
    let help = try JSONDecoder().decode(Help.self, from: Data(Memwatch._dumpHelp().utf8))
    try Output.standard(Self.page(help.command))
  }

  /// The argument parser's description of a command.
  struct Help: Decodable {
    var command: CommandHelp

    struct CommandHelp: Decodable {
      var commandName: String
      var abstract: String?
      var discussion: String?
      var shouldDisplay: Bool?
      var arguments: [ArgumentHelp]?
      var subcommands: [CommandHelp]?
    }

    struct ArgumentHelp: Decodable {
      struct Name: Decodable {
        var kind: String
        var name: String
      }
      var kind: String
      var names: [Name]?
      var valueName: String?
      var abstract: String?
      var isOptional: Bool
      var isRepeating: Bool
      var shouldDisplay: Bool
    }
  }

  // MARK: - mdoc(7)

  static func page(_ command: Help.CommandHelp) -> String {
    var lines = [
      ".\\\" Made by `memwatch manual`.", ".Dd November 2026", ".Dt MEMWATCH 1", ".Os", ".Sh NAME",
      ".Nm memwatch", ".Nd shows the locked memory of a running process", ".Sh SYNOPSIS",
    ]
    let commands = (command.subcommands ?? []).filter {
      $0.commandName != "help" && $0.shouldDisplay != false
    }
    for sub in commands { lines += [".Nm", ".Cm \(sub.commandName)"] + synopsis(sub) + [".Pp"] }
    lines.removeLast()
    lines += [".Sh DESCRIPTION"]
    lines += text(Examples.removed(from: command.discussion ?? command.abstract ?? ""))
    lines += [".Sh COMMANDS"]
    for sub in commands {
      lines += [".Ss \(sub.commandName)"] + text(sub.abstract ?? "")
      let discussion = Examples.removed(from: sub.discussion ?? "")
      if !discussion.isEmpty { lines += [".Pp"] + text(discussion) }
      let arguments = (sub.arguments ?? []).filter { $0.shouldDisplay && !isCommon($0) }
      guard !arguments.isEmpty else { continue }
      lines.append(".Bl -tag -width Ds")
      for argument in arguments {
        lines.append(".It " + form(argument))
        lines += text(argument.abstract ?? "")
      }
      lines.append(".El")
    }
    lines += [".Sh KEYS", ".Bl -tag -width 12n"]
    for binding in Binding.all {
      lines.append(".It " + escaped(binding.keys.map(\.name).joined(separator: " ")))
      lines += text(binding.help)
    }
    lines += [".It ^Z", "suspend", ".El", ".Sh EXIT STATUS", ".Bl -tag -width Ds"]
    for (code, meaning) in Exit.meanings { lines += [".It \(code)"] + text(meaning) }
    lines += [
      ".El", ".Sh ENVIRONMENT", ".Bl -tag -width ENCLAVE_STATS_DIR", ".It ENCLAVE_STATS_DIR",
      "the directory that is searched for pages first", ".It NO_COLOR", "disables colours",
      ".It XDG_CONFIG_HOME", "the directory that contains memwatch/config", ".El",
      ".Sh FILES", ".Bl -tag -width Ds", ".It ~/.config/memwatch/config",
      "Screen settings, one per line; # starts a comment. Options override them. Invalid lines "
        + "are reported and ignored.",
      ".El", ".Bd -literal", "interval = 500ms", "open\\-limit = 30s", "mouse = off",
      "theme = mono", "sort = SECRETS", "columns = ARENA, STATE, SECRETS, LOCKED", ".Ed",
    ]
    lines.append(".Sh EXAMPLES")
    for (purpose, command) in Examples.all {
      lines += text(purpose + ":") + [".Pp", ".Dl " + escaped(command), ".Pp"]
    }
    lines.removeLast()
    return lines.joined(separator: "\n") + "\n"
  }

  private static func isCommon(_ argument: Help.ArgumentHelp) -> Bool {
    argument.names?.contains { $0.name == "help" || $0.name == "version" } ?? false
  }

  private static func synopsis(_ command: Help.CommandHelp) -> [String] {
    (command.arguments ?? []).filter { $0.shouldDisplay && !isCommon($0) }.map { argument in
      let form = form(argument) + (argument.isRepeating ? " ..." : "")
      return argument.isOptional ? ".Op " + form : "." + form
    }
  }

  private static func form(_ argument: Help.ArgumentHelp) -> String {
    let value = argument.valueName ?? "value"
    guard let names = argument.names else { return "Ar \(value)" }
    let flags = names.map { $0.kind == "long" ? "Fl -\($0.name)" : "Fl \($0.name)" }
      .joined(separator: " , ")
    return argument.kind == "flag" ? flags : flags + " Ar \(value)"
  }

  private static func text(_ text: String) -> [String] {
    text.split(separator: "\n", omittingEmptySubsequences: false).map {
      $0.isEmpty ? ".Pp" : escaped(String($0))
    }
  }

  /// Escapes text: leading dots and quotes are requests, backslashes start escapes.
  private static func escaped(_ line: String) -> String {
    let safe = line.replacing("\\", with: "\\e").replacing("-", with: "\\-")
    return safe.first.map { ".'".contains($0) } ?? false ? "\\&" + safe : safe
  }
}

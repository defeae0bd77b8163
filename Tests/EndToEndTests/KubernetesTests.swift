// The DaemonSet in Assets/fleet: the article shows it, and it requests only what memwatch needs.

import Foundation
import TestSupport
import Testing

@Suite(.serialized, .waitsForProcesses) struct KubernetesTests {
  private static func text(_ path: String) throws -> String {
    try String(contentsOf: Programs.package.appending(path: path), encoding: .utf8)
  }

  private static let article = "Sources/MemwatchExporter/MemwatchExporter.docc/WatchingAFleet.md"

  private static func manifest() throws -> [String: Any] {
    let script = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"
    let parsed = try Launch(["python3", "-c", script])
      .run(input: text("Assets/fleet/kubernetes.yml"))
    guard parsed.status == 0 else { throw Failed(parsed.error) }
    return try json(parsed.output)
  }

  private static let isYamlMissing: Bool =
    (try? Launch(["python3", "-c", "import yaml"]).run().status) != 0

  @Test func theArticleShowsTheManifest() throws {
    let article = try Self.text(Self.article)
    let shown = try #require(article.firstMatch(of: /(?s)```yaml\n(.*?)```/)?.1)
    #expect(try String(shown) == Self.text("Assets/fleet/kubernetes.yml"))
    // Each alert that it names exists.
    let rules = try Self.text("Assets/fleet/rules.yml")
    let alerts = article.matches(of: /`(Memwatch\w+)`/).filter { $0.1 != "MemwatchExporter" }
    #expect(alerts.count > 5)
    for alert in alerts { #expect(rules.contains("- alert: \(alert.1)\n"), "\(alert.1)") }
  }

  @Test(.disabled(if: KubernetesTests.isYamlMissing, "python3-yaml is not installed"))
  func theManifestAsksForWhatTheExporterNeeds() throws {
    let manifest = try Self.manifest()
    #expect(manifest["kind"] as? String == "DaemonSet")
    let specification = manifest["spec"] as! [String: Any]
    let template = specification["template"] as! [String: Any]
    let selected = (specification["selector"] as! [String: Any])["matchLabels"]
    let labels = (template["metadata"] as! [String: Any])["labels"]
    #expect(selected as? [String: String] == labels as? [String: String])
    let pod = template["spec"] as! [String: Any]
    #expect(pod["hostPID"] as? Bool == true && pod["hostNetwork"] == nil)
    let container = try #require((pod["containers"] as! [[String: Any]]).first)
    let security = container["securityContext"] as! [String: Any]
    #expect(security["privileged"] == nil && security["allowPrivilegeEscalation"] as? Bool == false)
    #expect(security["readOnlyRootFilesystem"] as? Bool == true)
    #expect(security["runAsUser"] as? Int == 0)

    // It has the same capabilities as the service.
    let capabilities = security["capabilities"] as! [String: [String]]
    #expect(capabilities["drop"] == ["ALL"])
    let unit = try Self.text("Assets/packaging/debian/memwatch-exporter.service")
    let kept = try #require(unit.firstMatch(of: /CapabilityBoundingSet=(.*)/)?.1)
    #expect(
      capabilities["add"].map(Set.init)
        == Set(kept.split(separator: " ").map { String($0.dropFirst("CAP_".count)) }))

    // It writes to the mounted host directory, with a valid command of memwatch.
    let mounts = container["volumeMounts"] as! [[String: Any]]
    let volumes = pod["volumes"] as! [[String: Any]]
    #expect(mounts.map { $0["name"] as? String } == volumes.map { $0["name"] as? String })
    #expect(mounts.count == 1 && volumes.first?["hostPath"] != nil)
    let mount = try #require(mounts.first?["mountPath"] as? String)
    var command = container["command"] as! [String]
    #expect(command == ["memwatch", "export", "--textfile", mount])
    let scratch = try Scratch()
    command[0] = Programs.memwatch
    command[3] = scratch.path
    let ended = try Launch(command + ["--once"], stats: scratch).run()
    #expect(ended.status == 0, "\(ended.error)")
    #expect(FileManager.default.fileExists(atPath: scratch.file("memwatch.prom")))

    let version = try memwatch("--version").output.split(separator: "\n").first ?? "none"
    #expect((container["image"] as? String)?.hasSuffix("/memwatch:\(version)") == true)
    for match in try Self.text(Self.article).matches(of: /memwatch(?:-exporter)?[_:](\d[\d.]*\d)/) {
      #expect(match.1 == version)
    }
  }
}

// Programs that were not written for this library, with their whole heap on an arena.

import Foundation
import TestSupport
import Testing

@Suite struct HeapTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  private func heap(_ words: String = "heap,check") -> [String: String] {
    [
      "LD_PRELOAD": installed.libraries + "/libenclave-malloc.so", "ENCLAVE_MALLOC": words,
      "PYTHONMALLOC": "malloc",
    ]
  }

  @Test func anUnchangedSqliteShell() throws {
    let script = """
      create table t(a integer primary key, b text);
      with recursive n(i) as (select 1 union all select i+1 from n where i<5000)
        insert into t select i, hex(randomblob(i % 2000)) from n;
      select count(*), max(length(b)) from t;
      """
    let result = try Launch(["sqlite3", ":memory:"], environment: heap()).run(input: script)
    #expect(result.status == 0 && result.output == "5000|3998\n", "\(result.error)")
    #expect(result.error.contains("checked: 0 wrong, "), "\(result.error)")
    #expect(result.error.contains(" 0 failed allocations"), "\(result.error)")
  }

  /// Python, its whole heap on an arena: a known number of further allocations is what memwatch
  /// counts more.
  @Test func anUnchangedPython() throws {
    let stats = try Scratch(onTmpfs: true)
    let program = """
      import ctypes, json, sys, time
      libc = ctypes.CDLL(None)
      libc.malloc.restype = ctypes.c_void_p
      data = [{"number": i, "text": str(i) * (i % 50)} for i in range(20000)]
      assert json.loads(json.dumps(data)) == data
      del data
      print("ready", flush=True); sys.stdin.readline(); sys.stdin.readline()
      kept = [libc.malloc(1000) for i in range(5000)]
      print("more", flush=True); sys.stdin.readline()
      """
    var environment = heap()
    environment["ENCLAVE_STATS"] = "1"
    let process = Launch(
      ["/usr/bin/python3", "-c", program], stats: stats, environment: environment
    )
    .process()
    let (input, output, errors) = (Pipe(), Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = errors
    try process.run()
    defer { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }
    func counts(after line: String) throws -> (secrets: Int, bytes: Int) {
      let said = output.fileHandleForReading.readData(ofLength: line.utf8.count + 1)
      try #require(String(decoding: said, as: UTF8.self) == line + "\n")
      var last = (-1, -1)
      var since = 0
      // What is not listed is counted at each tenth tick: until counts stand still for more than that.
      try eventually("counts stand still") {
        let shown = try memwatch(
          "snapshot", "\(process.processIdentifier)", "--format", "json", stats: stats)
        let arenas = try json(shown.output)["arenas"] as! [[String: Any]]
        guard let heap = arenas.first(where: { $0["name"] as? String == "heap" }) else {
          return false
        }
        let now = (heap["secretCount"] as? Int ?? -1, heap["bytesInUse"] as? Int ?? -1)
        let beat = try (json(shown.output)["process"] as! [String: Any])["heartbeatAt"] as! Int
        if now != last { (last, since) = (now, beat) }
        return beat - since > 1500
      }
      return last
    }
    let before = try counts(after: "ready")
    #expect(before.secrets > 5000)
    input.fileHandleForWriting.write(Data("go\ngo\n".utf8))
    let after = try counts(after: "more")
    // 5,000 blocks, their addresses as integers, and a list of them.
    #expect(after.secrets - before.secrets >= 10_000 && after.secrets - before.secrets < 10_100)
    #expect(after.bytes - before.bytes >= 5_000_000 && after.bytes - before.bytes < 5_500_000)
    input.fileHandleForWriting.write(Data("go\n".utf8))
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    let said = String(decoding: errors.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    #expect(said.contains("checked: 0 wrong, "), "\(said)")
  }

  /// A child that goes on without exec has its parent's data, and says what is not kept of it.
  @Test func aForkedShellGoesOn() throws {
    let script =
      "n=0; for i in {1..3000}; do a[i]=$i; done; "
      + "echo $(for i in ${a[@]}; do n=$((n+1)); done; echo $n)"
    let result = try Launch(["bash", "-c", script], environment: heap("heap")).run(within: 60)
    #expect(result.status == 0 && result.output == "3000\n", "\(result.error)")
    // Once a process: env(1) is the first here.
    #expect(result.error.matches(of: /all memory is on one arena/).count == 2)
    #expect(result.error.matches(of: /this is a forked child/).count == 1, "\(result.error)")
  }

  @Test func aForkedPythonGoesOn() throws {
    let program = """
      import json, os
      data = {str(i): [i] * (i % 9) for i in range(5000)}
      text = bytearray(b"x" * 5000)
      child = os.fork()
      if child == 0:
          text += b"y" * 100000
          ok = json.loads(json.dumps(data)) == data and len(text) == 105000 and text[4999] == 120
          os._exit(7 if ok else 1)
      print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(json.dumps(data)) == data)
      """
    let result = try Launch(["/usr/bin/python3", "-c", program], environment: heap()).run(
      within: 60)
    #expect(result.status == 0 && result.output == "7 True\n", "\(result.error)")
    #expect(result.error.matches(of: /this is a forked child/).count == 1)
    #expect(result.error.contains("checked: 0 wrong, "))
  }

  @Test func aHeapThatCannotBeLockedSaysSo() throws {
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: installed.prefix.path)
    let command = ["/usr/bin/python3", "-c", "print(len(bytearray(3000000)))"]
    let locked = try Launch(command, environment: heap("heap,lock=off")).run()
    #expect(locked.output == "3000000\n" && !locked.error.contains("are not locked"))
    let result = try Launch(unprivileged(memlock: 65536) + command, environment: heap("heap")).run()
    #expect(result.status == 0 && result.output == "3000000\n")
    #expect(result.error.contains("bytes are not locked: raise RLIMIT_MEMLOCK"), "\(result.error)")
    // Where locks are required, what cannot be locked is not given.
    let required = try Launch(
      unprivileged(memlock: 65536) + command, environment: heap("heap,lock=required")
    ).run()
    #expect(required.status != 0 && required.output.isEmpty, "\(required)")
  }

  @Test func aWordThatIsNotKnownStopsTheProgram() throws {
    let result = try Launch(["true"], environment: heap("heap,lock=maybe")).run()
    #expect(result.status == 127)
    #expect(result.error.contains("ENCLAVE_MALLOC: not known: heap,lock=maybe"))
  }
}

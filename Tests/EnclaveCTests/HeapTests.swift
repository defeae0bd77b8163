// Programs that were not written for this library, with their whole heap on an arena.

import Foundation
import TestSupport
import Testing

@Suite(.waitsForProcesses) struct HeapTests {
  let installed: Installed
  init() throws { installed = try Installed.shared.get() }

  private func heap(_ words: String = "heap,check") -> [String: String] {
    [
      "LD_PRELOAD": installed.libraries + "/libenclave-malloc.so", "ENCLAVE_MALLOC": words,
      "PYTHONMALLOC": "malloc",
    ]
  }

  /// The program's own fork handlers allocate and free during a fork.
  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"))
  func handlersOfForksAllocate() throws {
    let result = try Launch([Adopting.client.get(), "heap-handlers"], environment: heap()).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
    #expect(!result.error.contains("Enclave"), "\(result.error)")
  }

  /// Blocks aligned to more than a page are forgotten when their arena is destroyed.
  @Test func aDestroyedArenasAlignedBlocksAreForgotten() throws {
    let program = try installed.compile("stale", linkage: .interposed)
    let result = try Launch(
      [program], environment: ["LD_LIBRARY_PATH": installed.libraries]
    ).run()
    #expect(result.status == 0 && result.output == "ok\n", "\(result)")
  }

  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"))
  func anUnmodifiedSqliteShellRuns() throws {
    let script = """
      create table t(a integer primary key, b text);
      with recursive n(i) as (select 1 union all select i+1 from n where i<5000)
        insert into t select i, hex(randomblob(i % 2000)) from n;
      select count(*), max(length(b)) from t;
      """
    let result = try Launch(["sqlite3", ":memory:"], environment: heap()).run(input: script)
    #expect(result.status == 0 && result.output == "5000|3998\n", "\(result.error)")
    // A check without violations prints nothing, and neither does anything else.
    #expect(!result.error.contains("Enclave"), "\(result.error)")
  }

  /// Python with its whole heap on an arena: memwatch counts a known number of additional
  /// allocations.
  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"))
  func anUnmodifiedPythonRuns() throws {
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
    let (process, input, output, errors) = try Launch(
      ["/usr/bin/python3", "-c", program], stats: stats, environment: environment
    ).start()
    defer { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }
    func counts(after line: String) throws -> (secrets: Int, bytes: Int) {
      let said = output.fileHandleForReading.readData(ofLength: line.utf8.count + 1)
      try #require(String(decoding: said, as: UTF8.self) == line + "\n")
      var last = (-1, -1)
      var since = 0
      // Unlisted secrets are counted at every tenth tick: wait until counts are stable for longer.
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
    #expect(!said.contains("Enclave"), "\(said)")
  }

  @Test func aCheckReportsTheDamagedAllocation() throws {
    let program = """
      import ctypes
      libc = ctypes.CDLL(None)
      libc.malloc.restype = ctypes.c_void_p
      block = libc.malloc(24)
      ctypes.memset(block + 24, 1, 1)
      """
    let result = try Launch(["/usr/bin/python3", "-c", program], environment: heap()).run()
    #expect(result.error.contains("check: 1 violations"), "\(result.error)")
    #expect(result.error.contains("overflow"), "\(result.error)")
  }

  /// Untouched mapped memory counts as locked, but takes no RAM.
  @Test func untouchedPagesTakeNoMemory() throws {
    let program = """
      import ctypes
      libc = ctypes.CDLL(None)
      libc.malloc.restype = ctypes.c_void_p
      blocks = [libc.malloc(64 << 20) for i in range(8)]
      assert all(blocks)
      print(next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1])
      """
    let result = try Launch(["/usr/bin/python3", "-c", program], environment: heap()).run()
    let kilobytes = Int(result.output.trimmingCharacters(in: .whitespacesAndNewlines)) ?? .max
    #expect(result.status == 0 && kilobytes < 256 << 10, "\(result)")
  }

  @Test func alignmentsAboveAPage() throws {
    let program = """
      import ctypes
      libc = ctypes.CDLL(None)
      for function in (libc.aligned_alloc, libc.realloc, libc.memalign): function.restype = ctypes.c_void_p
      libc.malloc_usable_size.restype = ctypes.c_size_t
      pointer = ctypes.c_void_p
      blocks = []
      for power in range(4, 22):
          for size in (1, 100, 5000, 70000):
              block = libc.aligned_alloc(1 << power, size)
              assert block and block % (1 << power) == 0, (power, size, block)
              assert libc.malloc_usable_size(pointer(block)) >= size
              ctypes.memset(block, power, size)
              blocks.append((block, size, power))
      place = pointer()
      assert libc.posix_memalign(ctypes.byref(place), 1 << 20, 10) == 0 and place.value % (1 << 20) == 0
      libc.free(place)
      for number, (block, size, power) in enumerate(blocks):
          assert ctypes.string_at(block, size) == bytes([power]) * size
          if number % 2:
              block = libc.realloc(pointer(block), size + 1000)
              assert ctypes.string_at(block, size) == bytes([power]) * size
          libc.free(pointer(block))
      print("ok")
      """
    let result = try Launch(["/usr/bin/python3", "-c", program], environment: heap()).run()
    #expect(result.output == "ok\n" && !result.error.contains("checked"), "\(result)")
  }

  /// A child that continues without exec has its parent's data.
  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"))
  func aForkedShellContinues() throws {
    let script =
      "n=0; for i in {1..3000}; do a[i]=$i; done; "
      + "echo $(for i in ${a[@]}; do n=$((n+1)); done; echo $n)"
    let result = try Launch(["bash", "-c", script], environment: heap("heap")).run(within: 60)
    #expect(result.status == 0 && result.output == "3000\n", "\(result.error)")
    #expect(!result.error.contains("Enclave"), "\(result.error)")
  }

  @Test(.enabled(if: Programs.mayLockOneMiB, "needs 1 MiB of RLIMIT_MEMLOCK"))
  func aForkedPythonContinues() throws {
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
    #expect(!result.error.contains("Enclave"), "\(result.error)")
  }

  /// The child locks its heap again, and publishes it on its own page.
  @Test func aForkedChildIsWatched() throws {
    let stats = try Scratch(onTmpfs: true)
    let program = """
      import os, sys
      data = [str(i) * 10 for i in range(10000)]
      child = os.fork()
      if child:
          print(child, flush=True)
      sys.stdin.read()
      if child:
          os.waitpid(child, 0)
      """
    let running = try Running(
      Launch(
        ["/usr/bin/python3", "-c", program], stats: stats,
        environment: heap("heap").merging(["ENCLAVE_STATS": "1"]) { $1 }))
    let said = String(decoding: running.output.fileHandleForReading.availableData, as: UTF8.self)
    let child = try #require(Int32(said.trimmingCharacters(in: .whitespacesAndNewlines)))
    for pid in [running.pid, child] {
      try eventually("the heap of \(pid) is shown") {
        guard let seen = try? Watched(pid, stats) else { return false }
        return seen.live("heap") > 10_000 && seen.status == 0
      }
    }
    try running.input.fileHandleForWriting.close()
    running.process.waitUntilExit()
    #expect(running.process.terminationStatus == 0)
  }

  @Test func forksCanBeRefused() throws {
    let program = """
      import os
      child = os.fork()
      if child == 0:
          os._exit(0)
      print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
      child = os.posix_spawn("/bin/true", ["true"], {})
      print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
      """
    let result = try Launch(
      ["/usr/bin/python3", "-c", program], environment: heap("heap,fork=refuse")
    ).run()
    #expect(result.status == 0 && result.output == "127\n0\n", "\(result)")
    #expect(result.error.contains("the forked child exits"))
  }

  @Test func anUnlockedHeapIsReported() throws {
    try FileManager.default.setAttributes(
      [.posixPermissions: 0o755], ofItemAtPath: installed.prefix.path)
    let command = ["/usr/bin/python3", "-c", "print(len(bytearray(3000000)))"]
    let locked = try Launch(command, environment: heap("heap,lock=off")).run()
    #expect(locked.output == "3000000\n" && !locked.error.contains("are not locked"))
    let result = try Launch(unprivileged(memlock: 65536) + command, environment: heap("heap")).run()
    #expect(result.status == 0 && result.output == "3000000\n")
    #expect(result.error.contains("bytes are not locked: raise RLIMIT_MEMLOCK"), "\(result.error)")
    // With required locks, allocations that cannot be locked fail.
    let required = try Launch(
      unprivileged(memlock: 65536) + command, environment: heap("heap,lock=required")
    ).run()
    #expect(required.status != 0 && required.output.isEmpty, "\(required)")
  }

  @Test func anUnknownOptionEndsTheProgram() throws {
    let result = try Launch(["true"], environment: heap("heap,lock=maybe")).run()
    #expect(result.status == 127)
    #expect(result.error.contains("ENCLAVE_MALLOC: unknown value: heap,lock=maybe"))
    #expect(
      result.error.contains("lock=required, lock=preferred, lock=off, fork=inherit, fork=refuse"))
  }
}

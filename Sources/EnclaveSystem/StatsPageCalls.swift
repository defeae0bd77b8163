// The bare calls that make a stats page. Unchecked: `StatsPageFile` calls each through `perform`.

internal import CEnclaveSystem

package enum StatsPageCalls {
  package struct Status {
    package var owner: UInt32 = 0
    package var mode: UInt32 = 0
    package var identity = Identity(device: 0, inode: 0)
    package init() {}
  }

  /// Identifies a file.
  package struct Identity: Equatable, Sendable {
    package var device: UInt64
    package var inode: UInt64
    package init(device: UInt64, inode: UInt64) {
      self.device = device
      self.inode = inode
    }
  }

  package static func makeDirectory(_ path: String) -> Int64 { unsafe ces_mkdir(-1, path, 0o700) }
  package static func openDirectory(_ path: String) -> Int64 {
    unsafe ces_open_directory(-1, path)
  }
  package static func status(_ fd: Int32, _ status: inout Status) -> Int64 {
    var raw = ces_stat_t()
    let result = unsafe ces_fstat(fd, &raw)
    status.owner = raw.uid
    status.mode = raw.mode
    status.identity = Identity(device: raw.device, inode: raw.inode)
    return result
  }
  package static func isTmpfs(_ fd: Int32) -> Int64 { ces_is_tmpfs(fd) }
  package static func createTemporary(_ directory: Int32) -> Int64 {
    ces_open_temporary(directory)
  }
  package static func allocate(_ fd: Int32, _ byteCount: Int) -> Int64 {
    ces_fallocate(fd, UInt64(byteCount))
  }
  package static func map(_ fd: Int32, _ byteCount: Int) -> Int64 { ces_map_shared(fd, byteCount) }
  /// Whether this much private memory can be mapped now.
  package static func hasRoom(_ byteCount: Int) -> Int64 { ces_has_room(byteCount) }
  package static func unmap(_ base: UnsafeMutableRawPointer, _ byteCount: Int) {
    _ = unsafe ces_unmap(base, byteCount)
  }
  package static func excludeFromFork(_ base: UnsafeMutableRawPointer, _ byteCount: Int) -> Int64 {
    unsafe ces_advise(base, byteCount, Int32(CES_ADVICE_DONT_FORK))
  }
  package static func guardPage(_ base: UnsafeMutableRawPointer, _ byteCount: Int) -> Int64 {
    unsafe ces_page_guard_install(base, byteCount)
  }
  /// Reinstalls the guard after the program has set a SIGBUS handler of its own.
  package static func keepPageGuarded() { _ = ces_page_guard_keep() }
  package static func unguardPage() { ces_page_guard_remove() }
  /// Whether the page was truncated while it was published.
  package static var isPageLost: Bool { ces_page_guard_tripped() != 0 }
  package static func lockFile(_ fd: Int32) -> Int64 { ces_lock_file(fd) }
  package static func chmod(_ fd: Int32, _ mode: UInt32) -> Int64 { ces_chmod(fd, mode) }
  package static func link(_ fd: Int32, _ directory: Int32, _ name: String) -> Int64 {
    unsafe ces_link(fd, directory, name)
  }
  package static func unlink(_ directory: Int32, _ name: String) -> Int64 {
    unsafe ces_unlink(directory, name)
  }
  package static func close(_ fd: Int32) { _ = ces_close(fd) }

  /// Whether the program has closed a descriptor of this file, or reused its number for another.
  package static func hasLost(_ fd: Int32, of file: Identity) -> Bool {
    var raw = ces_stat_t()
    return unsafe ces_fstat(fd, &raw) != 0 || raw.device != file.device || raw.inode != file.inode
  }

  /// Closes a descriptor if it still refers to this file. The program may have closed it and reused
  /// its number for a file of its own.
  package static func close(_ fd: Int32, of file: Identity) {
    var status = Status()
    if Self.status(fd, &status) == 0, status.identity == file { close(fd) }
  }

  /// Removes a name if it still refers to this file.
  package static func unlink(_ path: String, of file: Identity) {
    var raw = ces_stat_t()
    guard unsafe ces_lstat(-1, path, &raw) == 0, raw.device == file.device,
      raw.inode == file.inode
    else { return }
    _ = unsafe ces_unlink(-1, path)
  }

  /// Removes an empty directory.
  package static func removeDirectory(_ path: String) { _ = unsafe ces_rmdir(path) }

  /// Starts a thread that calls `tick` at each interval until `tick` returns 0.
  package static func startTicker(
    named name: StaticString, everyMs interval: UInt32, context: UnsafeMutableRawPointer?,
    _ tick: @escaping @convention(c) (UnsafeMutableRawPointer?) -> Int32
  ) -> Int64 {
    unsafe ces_start_ticker(
      UnsafeRawPointer(name.utf8Start).assumingMemoryBound(to: CChar.self), interval, tick,
      context)
  }
  package static func atExit(_ handler: @escaping @convention(c) () -> Void) -> Int64 {
    ces_at_exit(handler)
  }
}

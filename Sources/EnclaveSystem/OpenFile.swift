// File descriptors that close themselves, and the file calls that stats pages and /proc need.

internal import CEnclaveSystem

/// A failed file call.
package struct FileFailure: Error, Equatable, CustomStringConvertible {
  package var function: String
  package var path: String
  package var errno: Int32
  /// What the errno does not tell; it then takes the place of the function.
  package var reason: String?

  package var isMissing: Bool { errno == Self.enoent || errno == Self.enotdir }
  package var isDenied: Bool { errno == Self.eacces || errno == Self.eperm }
  package var exists: Bool { errno == Self.eexist }
  /// This process (EMFILE) or the system (ENFILE) may open no more files.
  package var isOutOfDescriptors: Bool { errno == Self.emfile || errno == Self.enfile }

  package init(function: String, path: String, errno: Int32, reason: String? = nil) {
    self.function = function
    self.path = path
    self.errno = errno
    self.reason = reason
  }

  package static let enoent: Int32 = 2
  package static let ebadf: Int32 = 9
  package static let eperm: Int32 = 1
  package static let eacces: Int32 = 13
  package static let eexist: Int32 = 17
  package static let enotdir: Int32 = 20
  package static let einval: Int32 = 22
  package static let enfile: Int32 = 23
  package static let emfile: Int32 = 24
  package static let epipe: Int32 = 32
  package static let eloop: Int32 = 40

  package var description: String {
    let name = SystemFailure.name(ofErrno: errno)
    if let reason { return "\(path): \(reason) (\(name))" }
    let answer = unsafe String(cString: ces_strerror(errno))
    return "\(function) \(path): \(answer) (\(name))" + limit
  }

  /// The limit that causes this errno, if any (getrlimit(2)).
  private var limit: String {
    switch errno {
    case 27: "; RLIMIT_FSIZE (ulimit -f) allows no larger file"
    case Self.emfile: "; RLIMIT_NOFILE (ulimit -n) allows no more open files"
    case 11 where function == "fork" || function == "posix_spawn":
      "; RLIMIT_NPROC (ulimit -u) allows no more processes"
    default: ""
    }
  }
}

package struct FileStatus: Equatable, Sendable {
  package var device: UInt64
  package var inode: UInt64
  package var size: UInt64
  package var links: UInt64
  package var mode: UInt32
  package var owner: UInt32

  /// The device number's parts, as /proc/PID/maps prints them (makedev(3)).
  package var deviceMajor: UInt64 { device >> 32 & 0xffff_f000 | device >> 8 & 0xfff }
  package var deviceMinor: UInt64 { device >> 12 & 0xffff_ff00 | device & 0xff }

  package var isRegular: Bool { mode & 0o170000 == 0o100000 }
  package var isDirectory: Bool { mode & 0o170000 == 0o040000 }
  package var permissions: UInt32 { mode & 0o7777 }

  init(_ raw: ces_stat_t) {
    device = raw.device
    inode = raw.inode
    size = raw.size
    links = raw.links
    mode = raw.mode
    owner = raw.uid
  }
}

/// The holder of the record lock on a stats page.
package enum LockHolder: Equatable, Sendable {
  case nobody
  case process(Int32)
  /// A process in a pid namespace that this process cannot see.
  case inOtherNamespace
}

/// A file descriptor that is closed when its owner is destroyed.
package struct OpenFile: ~Copyable, Sendable {
  package let descriptor: Int32
  package let path: String

  package init(adopting descriptor: Int32, path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  deinit { _ = ces_close(descriptor) }

  private static func check(
    _ function: String, _ path: String, _ result: Int64
  ) throws(FileFailure) -> Int64 {
    guard result >= 0 else {
      throw FileFailure(function: function, path: path, errno: Int32(-result))
    }
    return result
  }

  /// Opens for reading. Never blocks on a FIFO and never acquires a controlling terminal.
  package init(reading path: String, followingLinks: Bool) throws(FileFailure) {
    let fd = try Self.check("open", path, unsafe ces_open_read(-1, path, followingLinks))
    self.init(adopting: Int32(fd), path: path)
  }

  package init(reading name: String, in directory: borrowing OpenFile) throws(FileFailure) {
    let path = directory.path + "/" + name
    let fd = try Self.check("open", path, unsafe ces_open_read(directory.descriptor, name, false))
    self.init(adopting: Int32(fd), path: path)
  }

  package init(directory path: String, followingLinks: Bool = false) throws(FileFailure) {
    let fd = try Self.check(
      "open", path,
      followingLinks
        ? unsafe ces_open_directory_following(path) : unsafe ces_open_directory(-1, path))
    self.init(adopting: Int32(fd), path: path)
  }

  package init(directory name: String, in parent: borrowing OpenFile) throws(FileFailure) {
    let path = parent.path + "/" + name
    let fd = try Self.check("open", path, unsafe ces_open_directory(parent.descriptor, name))
    self.init(adopting: Int32(fd), path: path)
  }

  /// Creates a file that must not exist yet, with mode 0600.
  package init(creating path: String, in directory: Int32 = -1) throws(FileFailure) {
    let fd = try Self.check("create", path, unsafe ces_create_exclusive(directory, path))
    self.init(adopting: Int32(fd), path: path)
  }

  package func status() throws(FileFailure) -> FileStatus {
    var raw = ces_stat_t()
    _ = try Self.check("stat", path, unsafe ces_fstat(descriptor, &raw))
    return FileStatus(raw)
  }

  /// Reads at an offset into private memory. Returns fewer bytes than requested only at the end of
  /// the file.
  package func read(
    into buffer: UnsafeMutableRawBufferPointer, at offset: Int
  ) throws(FileFailure) -> Int {
    guard let base = buffer.baseAddress, buffer.count > 0 else { return 0 }
    return Int(
      try Self.check(
        "read", path, unsafe ces_pread(descriptor, base, buffer.count, UInt64(offset))))
  }

  /// Reads from the start to the end, at most `limit` bytes.
  package func readAll(limit: Int) throws(FileFailure) -> [UInt8] {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(limit, 32768))
    while bytes.count < limit {
      let wanted = min(chunk.count, limit - bytes.count)
      var result: Int64 = 0
      let offset = UInt64(bytes.count)
      unsafe chunk.withUnsafeMutableBytes { raw in
        unsafe result = ces_pread(descriptor, raw.baseAddress, wanted, offset)
      }
      let count = Int(try Self.check("read", path, result))
      bytes.append(contentsOf: chunk[..<count])
      // A short read means the end.
      if count < wanted { break }
    }
    return bytes
  }

  package func write(_ bytes: [UInt8]) throws(FileFailure) {
    try Files.write(bytes, to: descriptor, path: path)
  }

  package func synchronize() throws(FileFailure) {
    _ = try Self.check("fsync", path, ces_fsync(descriptor))
  }

  package func lockHolder() throws(FileFailure) -> LockHolder {
    let pid = try Self.check("fcntl(F_GETLK)", path, ces_lock_holder(descriptor))
    return pid == 0 ? .nobody : pid == Int64(Int32.max) ? .inOtherNamespace : .process(Int32(pid))
  }

  /// The names in a directory, without "." and "..", at most `limit`.
  package func names(limit: Int = 100_000) throws(FileFailure) -> [String] {
    final class Box {
      var names: [String] = []
      var limit = 0
    }
    let box = Box()
    box.limit = limit
    let result = unsafe ces_list_directory(
      descriptor,
      { context, name in
        let box = unsafe Unmanaged<Box>.fromOpaque(context!).takeUnretainedValue()
        unsafe box.names.append(String(cString: name!))
        return box.names.count < box.limit ? 0 : 1
      }, Unmanaged.passUnretained(box).toOpaque())
    _ = try Self.check("list", path, result)
    return box.names
  }
}

package enum Files {
  /// Writes all bytes to a descriptor that belongs to the caller.
  package static func write(
    _ bytes: [UInt8], to descriptor: Int32, path: String
  ) throws(FileFailure) {
    var result: Int64 = 0
    unsafe bytes.withUnsafeBytes { raw in
      unsafe result = ces_write(descriptor, raw.baseAddress, raw.count)
    }
    guard result >= 0 else {
      throw FileFailure(function: "write", path: path, errno: Int32(-result))
    }
  }

  /// The target of a symbolic link; nil if it cannot be read.
  package static func link(_ path: String) -> String? { try? target(of: path) }

  /// The target of a symbolic link.
  package static func target(of path: String) throws(FileFailure) -> String {
    var bytes = [UInt8](repeating: 0, count: 4096)
    var count: Int64 = 0
    unsafe bytes.withUnsafeMutableBytes { raw in
      unsafe count = ces_readlink(-1, path, raw.baseAddress, raw.count)
    }
    guard count >= 0 else {
      throw FileFailure(function: "readlink", path: path, errno: Int32(-count))
    }
    return String(decoding: bytes[..<Int(count)], as: UTF8.self)
  }

  package static func status(
    _ path: String, in directory: Int32 = -1
  ) throws(FileFailure) -> FileStatus {
    var raw = ces_stat_t()
    let result = unsafe ces_lstat(directory, path, &raw)
    guard result >= 0 else {
      throw FileFailure(function: "stat", path: path, errno: Int32(-result))
    }
    return FileStatus(raw)
  }

  package static func remove(_ path: String, in directory: Int32 = -1) {
    _ = unsafe ces_unlink(directory, path)
  }

  /// Renames a file unless the new name exists.
  package static func renameExclusively(
    _ from: String, to: String, in directory: Int32 = -1
  ) throws(FileFailure) {
    let result = unsafe ces_rename_exclusive(directory, from, to)
    guard result >= 0 else {
      throw FileFailure(function: "rename", path: to, errno: Int32(-result))
    }
  }
}

// Sends messages and file descriptors between two processes of this program.

internal import CMemwatchSystem
package import EnclaveSystem

/// One end of a socket pair that preserves message boundaries (unix(7), SOCK_SEQPACKET). One thread
/// at a time.
package struct MessageSocket: ~Copyable, Sendable {
  private let file: OpenFile
  package var descriptor: Int32 { file.descriptor }

  /// A message, and the file whose descriptor came with it.
  package struct Message: ~Copyable {
    package var bytes: [UInt8]
    package var file: OpenFile?
    package consuming func takeFile() -> OpenFile? { file.take() }
  }

  private init(_ descriptor: Int32) {
    file = OpenFile(adopting: descriptor, path: "the socket between two processes")
  }

  /// The two ends, one for each process.
  package struct Pair: ~Copyable {
    package var first: MessageSocket?
    package var second: MessageSocket?
  }

  /// Creates a connected pair (socketpair(2)).
  package static func pair() throws(FileFailure) -> Pair {
    var ends: [Int32] = [-1, -1]
    let result = unsafe ends.withUnsafeMutableBufferPointer {
      unsafe cms_socket_pair($0.baseAddress)
    }
    guard result >= 0 else {
      throw FileFailure(function: "socketpair", path: "AF_UNIX", errno: Int32(-result))
    }
    return Pair(first: MessageSocket(ends[0]), second: MessageSocket(ends[1]))
  }

  /// Sends one message, optionally with a descriptor (sendmsg(2), SCM_RIGHTS).
  package func send(_ bytes: [UInt8], passing descriptor: Int32 = -1) throws(FileFailure) {
    let result = unsafe bytes.withUnsafeBytes {
      unsafe cms_send(file.descriptor, $0.baseAddress, $0.count, descriptor)
    }
    guard result >= 0 else {
      throw FileFailure(function: "sendmsg", path: file.path, errno: Int32(-result))
    }
  }

  /// Waits for one message and cuts it to `limit` bytes (recvmsg(2)). An empty message means that
  /// the other end is closed.
  ///
  /// - Parameter path: names a received descriptor in errors.
  package func receive(limit: Int, path: String = "") throws(FileFailure) -> Message {
    var bytes = [UInt8](repeating: 0, count: limit)
    var passed: Int32 = -1
    let result = unsafe bytes.withUnsafeMutableBytes {
      unsafe cms_receive(file.descriptor, $0.baseAddress, $0.count, &passed)
    }
    let opened = passed >= 0 ? OpenFile(adopting: passed, path: path) : nil
    guard result >= 0 else {
      throw FileFailure(function: "recvmsg", path: file.path, errno: Int32(-result))
    }
    return Message(bytes: Array(bytes[..<Int(result)]), file: opened)
  }
}

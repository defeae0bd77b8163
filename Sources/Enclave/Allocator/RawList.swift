// A growable array of trivial values in raw memory, without reference counts, exclusivity checks or
// uniqueness checks. The owner holds the arena's lock. If growing fails, nothing changes.

import EnclaveSystem

@safe
struct RawList<Element: BitwiseCopyable> {
  private var storage: UnsafeMutablePointer<Element>?
  private(set) var count = 0
  private var capacity = 0

  func deallocate() { unsafe Metadata.free(storage) }

  var isEmpty: Bool { count == 0 }

  /// Makes room for `wanted` elements in total, so that appending up to that number cannot fail.
  mutating func reserve(_ wanted: Int) throws(SystemFailure) {
    guard wanted > capacity else { return }
    let room = max(wanted, capacity * 2, 8)
    let larger = unsafe try Metadata.allocate(Element.self, count: room)
    if let old = unsafe storage { unsafe larger.moveInitialize(from: old, count: count) }
    unsafe Metadata.free(storage)
    unsafe storage = unsafe larger
    capacity = room
  }

  mutating func append(_ element: Element) throws(SystemFailure) {
    if count == capacity { try reserve(count + 1) }
    unsafe (storage.unsafelyUnwrapped + count).initialize(to: element)
    count += 1
  }

  mutating func popLast() -> Element? {
    guard count > 0 else { return nil }
    count -= 1
    return unsafe (storage.unsafelyUnwrapped + count).move()
  }

  subscript(index: Int) -> Element {
    get {
      precondition(index >= 0 && index < count)
      return unsafe storage.unsafelyUnwrapped[index]
    }
    nonmutating set {
      precondition(index >= 0 && index < count)
      unsafe storage.unsafelyUnwrapped[index] = newValue
    }
  }

  /// The address of an element; valid until the list grows.
  func pointer(at index: Int) -> UnsafeMutablePointer<Element> {
    precondition(index >= 0 && index < count)
    return unsafe storage.unsafelyUnwrapped + index
  }
}

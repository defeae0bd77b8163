// A growable array of trivial values in raw memory: no reference counts, no exclusivity checks,
// and no uniqueness checks. Its owner holds the arena's lock.

@safe
struct RawList<Element: BitwiseCopyable> {
  private(set) var base: UnsafeMutablePointer<Element>
  private(set) var count = 0
  private var capacity: Int

  init(capacity: Int = 8) {
    self.capacity = capacity
    unsafe base = .allocate(capacity: capacity)
  }

  func deallocate() { unsafe base.deallocate() }

  var isEmpty: Bool { count == 0 }

  mutating func append(_ element: Element) {
    if count == capacity {
      let larger = UnsafeMutablePointer<Element>.allocate(capacity: capacity * 2)
      unsafe larger.moveInitialize(from: base, count: count)
      unsafe base.deallocate()
      unsafe base = unsafe larger
      capacity *= 2
    }
    unsafe (base + count).initialize(to: element)
    count += 1
  }

  mutating func popLast() -> Element? {
    guard count > 0 else { return nil }
    count -= 1
    return unsafe (base + count).move()
  }

  subscript(index: Int) -> Element {
    get {
      precondition(index >= 0 && index < count)
      return unsafe base[index]
    }
    nonmutating set {
      precondition(index >= 0 && index < count)
      unsafe base[index] = newValue
    }
  }

  /// The place of an element, until the list grows.
  func pointer(at index: Int) -> UnsafeMutablePointer<Element> {
    precondition(index >= 0 && index < count)
    return unsafe base + index
  }
}

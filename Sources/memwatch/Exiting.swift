// Exiting and pausing.

import Glibc
import MemwatchInspector

enum Exiting {
  static func now(_ code: Int32) -> Never { exit(code) }
  static func pause(milliseconds: UInt32) { Console.pause(milliseconds: milliseconds) }
}

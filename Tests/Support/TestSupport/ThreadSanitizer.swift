// Tests under the thread sanitizer: `swift build --build-tests --sanitize=thread`.

import Glibc
import Testing

extension Trait where Self == ConditionTrait {
  /// Skips a test that cannot pass under the thread sanitizer.
  public static func withoutThreadSanitizer(_ reason: Comment) -> Self {
    .disabled(if: dlsym(nil, "__tsan_init") != nil, reason)
  }
}

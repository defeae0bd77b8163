// The grouping of secrets, compared with a visit to each.

import TestSupport
import Testing

@testable import MemwatchInspector
@testable import MemwatchTerminal

@Suite struct SecretGroupsTests {
  /// Also with labels that are missing, twice in the page, or of no arena.
  @Test func groupsHoldWhatEachSecretSays() {
    var random = SeededGenerator()
    for _ in 0..<300 {
      var snapshot = sample(arenas: 3)
      func time(_ chance: UInt64) -> Timestamp? {
        random.next() % chance == 0 ? nil : now - random.next() % 9000
      }
      for index in snapshot.arenas.indices {
        for label in snapshot.arenas[index].labels.indices where random.next() % 4 == 0 {
          snapshot.arenas[index].labels[label].index = random.next() % 6
        }
      }
      snapshot.secrets = (0..<random.next() % 40).map { serial in
        SecretSnapshot(
          arenaID: random.next() % 5, serial: serial, labelIndex: random.next() % 6,
          byteCount: ByteCount(32), allocatedAt: time(5), opens: random.next() % 2,
          lastOpenedAt: time(3), openNow: random.next() % 3)
      }
      let groups = SecretGroups(snapshot)
      let mark = now - random.next() % 9000
      for arena in snapshot.arenas {
        let own = snapshot.secrets.filter { $0.arenaID == arena.id }
        #expect(groups.listed(in: arena.id) == UInt64(own.count))
        for label in 0..<UInt64(8) {
          let group = groups[arena: arena.id, label: label]
          guard arena.labels.contains(where: { $0.index == label }) else {
            #expect(group == nil)
            continue
          }
          var expected = SecretAges()
          for secret in own where secret.labelIndex == label {
            expected.add(secret, at: now, mark: mark)
          }
          #expect(group?.ages(at: now, mark: mark) == expected)
          #expect(
            group?.secrets.map { snapshot.secrets[Int($0)] }
              == own.filter { $0.labelIndex == label })
        }
      }
    }
  }

  /// A list of the same length, and other labels, are noticed.
  @Test func changesAreNoticed() {
    let first = sample(arenas: 2)
    let groups = SecretGroups(first)
    #expect(groups.isMade(from: first))
    var later = first
    later.sampledAt += 1000
    #expect(groups.isMade(from: later), "nothing is visited again")
    var opened = first
    opened.secrets[0].openNow += 1
    #expect(opened.secrets.count == first.secrets.count && !groups.isMade(from: opened))
    var named = first
    named.arenas[0].labels[0].index += 100
    #expect(!groups.isMade(from: named))
  }

  /// The model keeps them while it shows secrets, in each way to get there.
  @Test func theModelKeepsThem() {
    var model = model(sample(arenas: 2))
    #expect(model.secretGroups == nil)
    for key in ["2", "1", "\n"] {
      press(&model, key)
      #expect((model.secretGroups != nil) == (key != "1"), "at once, also while paused")
    }
    let next = sample(arenas: 2, at: now + 1000)
    model.update(next)
    #expect(model.secretGroups?.isMade(from: next) == true)
    press(&model, ",")
    #expect(model.isPast && model.secretGroups?.isMade(from: model.snapshot!) == true)
  }

  /// What the screen shows follows them.
  @Test func theListFollowsItsSecrets() {
    var model = model(sample(arenas: 2))
    press(&model, "2")
    var next = sample(arenas: 2, at: now + 1000)
    model.update(next)
    #expect(model.listing?.columns[9].title == "HELD")
    func held() -> [String] { model.listing?.rows.map { $0.cells[9].text } ?? [] }
    let before = held()
    for index in next.secrets.indices {
      next.secrets[index].openNow = 1
      next.secrets[index].lastOpenedAt = now - 76_000
    }
    next.sampledAt += 1000
    model.update(next)
    #expect(held() != before && held().contains("78 s"), "\(held())")
  }
}

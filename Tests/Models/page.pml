/*
 * One record of the page: a publisher that updates it, and a reader in another process. Spin explores every interleaving,
 * and every order in which the publisher's stores may reach memory: each word has its own queue, and only a fence or a
 * release waits for other words (weaker than any processor that Swift supports).
 *
 * The reader reads as memwatch does: a block twice (StatsPageReader.block), accepted if both reads are equal and the
 * sequence is even; otherwise sequence, record, sequence (StatsPageReader.record). One pread(2) may see words in any order.
 * A block whose stamp did not change is not read again.
 *
 * -DNO_FIRST_FENCE, -DNO_RELEASE, -DSTAMP_FIRST and -DREAD_ONCE leave out parts of the protocol. Spin must then find a torn
 * record, or an update that is missed for good.
 */

#define UPDATES 2

/* Memory. Both words of the record always hold the number of the update. */
byte sequence = 0, one = 0, two = 0, stamp = 0;
/* Stores that have not reached memory. */
chan sequences = [4] of { byte };
chan ones = [2] of { byte };
chan twos = [2] of { byte };
chan stamps = [2] of { byte };
bool finished = false;

active proctype memory() {
end:
  do
  :: sequences ? sequence
  :: ones ? one
  :: twos ? two
  :: stamps ? stamp
  od
}

active proctype publisher() {
  byte update = 0;
  do
  :: update < UPDATES ->
     update++;
#ifdef STAMP_FIRST
     stamps ! update;
#endif
     sequences ! (2 * update - 1);
#ifndef NO_FIRST_FENCE
     empty(sequences);
#endif
     ones ! update;
     twos ! update;
#ifndef NO_RELEASE
     empty(sequences) && empty(ones) && empty(twos);
#endif
     sequences ! (2 * update);
#ifndef STAMP_FIRST
     empty(sequences) && empty(ones) && empty(twos);
     stamps ! update
#endif
  :: else -> break
  od;
  empty(sequences) && empty(ones) && empty(twos) && empty(stamps);
  finished = true
}

/* One pread(2) of the record. */
inline read(s, a, b) {
  bool s_left = true, a_left = true, b_left = true;
  s_left = true; a_left = true; b_left = true;
  do
  :: s_left -> s = sequence; s_left = false
  :: a_left -> a = one; a_left = false
  :: b_left -> b = two; b_left = false
  :: !s_left && !a_left && !b_left -> break
  od
}

active proctype reader() {
  byte s1, a1, b1, s2, a2, b2, before, after;
  byte known = 0, known_stamp = 255, seen_stamp;
  bool is_last = false, accepted;
  do
  :: !is_last ->
     is_last = finished;
     seen_stamp = stamp;
     if
     :: seen_stamp == known_stamp -> skip
     :: else ->
        accepted = false;
        read(s1, a1, b1);
#ifdef READ_ONCE
        s2 = s1; a2 = a1; b2 = b1;
#else
        read(s2, a2, b2);
#endif
        if
        :: s1 % 2 == 0 && s1 == s2 && a1 == a2 && b1 == b2 -> accepted = true
        :: else ->
           before = sequence;
           if
           :: before % 2 == 0 ->
              read(s2, a2, b2);
              after = sequence;
              if
              :: before == after && s2 == before -> accepted = true
              :: else -> skip
              fi
           :: else -> skip
           fi
        fi;
        if
        :: accepted ->
           assert(a2 == b2);      /* not torn, */
           assert(s2 == 2 * a2);  /* of the update given by its sequence, */
           assert(a2 >= known);   /* and not older than the known one */
           known = a2;
           known_stamp = seen_stamp
        :: else -> known_stamp = 255
        fi
     fi
  :: else -> break
  od;
  /* In the end the reader knows the last update. */
  assert(known == UPDATES)
}

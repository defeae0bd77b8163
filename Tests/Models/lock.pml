/*
 * The lock word (CEnclaveSystem/locks.c): taken by an exchange; released by a plain store and a load of the count of
 * sleepers, which a processor may execute before others see the store. A waiter counts itself, runs a barrier on every
 * thread (membarrier(2)), tries once more, and sleeps (futex(2)) while the word is taken. Properties: no thread sleeps
 * forever, two threads never hold the lock, and the lock's own memory is not read after its release, because its last
 * holder frees it.
 *
 * Spin must find the error if one of these is left out: the barrier (-DNO_BARRIER), counting before the barrier
 * (-DCOUNTS_LATE), waking another sleeper after one was woken (-DWAKES_ONCE), and a count outside the lock's memory
 * (-DCOUNT_BESIDE).
 */

#define THREADS 3
#define TURNS 2

bool word = false;              /* in memory */
bool buffered[THREADS];         /* a thread's store of "free" that other threads do not see yet */
byte sleepers = 0;
bool asleep[THREADS];
byte holders = 0;
byte turns = 0;                 /* finished turns of all threads */
bool is_freed = false;

inline drain(t) {
  if
  :: buffered[t] -> buffered[t] = false; word = false
  :: else -> skip
  fi
}

/* An exchange: drains the thread's own stores first. */
inline take(t, taken) {
  atomic {
    drain(t);
    taken = !word;
    word = true
  }
}

inline wake_one() {
  if
  :: asleep[0] -> asleep[0] = false
  :: asleep[1] -> asleep[1] = false
  :: asleep[2] -> asleep[2] = false
  :: else -> skip
  fi
}

proctype thread(byte me) {
  byte turn = 0;
  bool taken, is_last;
  do
  :: turn < TURNS ->
     take(me, taken);
     if
     :: taken -> skip
     :: else ->
#ifndef COUNTS_LATE
        atomic { drain(me); sleepers++ };
#endif
#ifndef NO_BARRIER
        atomic { drain(0); drain(1); drain(2) };
#endif
#ifdef COUNTS_LATE
        atomic { drain(me); sleepers++ };
#endif
        do
        :: take(me, taken);
           if
           :: taken -> break
           :: else -> skip
           fi;
           /* The kernel compares the word and puts the thread to sleep in one step. */
           atomic {
             if
             :: word -> asleep[me] = true
             :: else -> skip
             fi
           };
           !asleep[me]
        od;
        atomic { drain(me); sleepers-- }
     fi;
     holders++;
     assert(holders == 1);
     turns++;
     is_last = (turns == THREADS * TURNS);
     holders--;
     buffered[me] = true;       /* unlock: a plain store */
#ifdef COUNT_BESIDE
     assert(!is_freed);
#endif
     if
#ifdef WAKES_ONCE
     :: sleepers == 1 -> atomic { drain(me); wake_one() }
#else
     :: sleepers > 0 -> atomic { drain(me); wake_one() }
#endif
     :: else -> skip
     fi;
     if
     :: is_last -> is_freed = true
     :: else -> skip
     fi;
     turn++
  :: else -> break
  od
}

/* The processor writes a store back at any time. */
active proctype memory() {
end:
  do
  :: atomic { buffered[0] -> drain(0) }
  :: atomic { buffered[1] -> drain(1) }
  :: atomic { buffered[2] -> drain(2) }
  od
}

init {
  atomic { run thread(0); run thread(1); run thread(2) }
}

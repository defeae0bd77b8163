/*
 * An arena's gate: windows and frees, concurrent with a thread that freezes or destroys the arena, with a wipe on a signal,
 * and with signal handlers that open windows. Spin explores every interleaving of the threads, and of the first thread's
 * store buffer.
 *
 * A thread counts its window with a plain store, which other threads see when the buffer drains, and then reads `access`.
 * The closer sets `access`, runs a barrier on every thread (which drains the buffers), and reads the counts. A handler that
 * finds a change of `access` in progress gives up if the change may be waiting for the interrupted thread: the closer
 * itself, or a thread inside a free. A wipe on a signal does not wait: it sets `access` whatever its value is.
 *
 * Spin must find an error if the model is compiled with
 *   -DNO_BARRIER      the closer continues without a barrier: a window in a destroyed arena;
 *   -DHANDLER_WAITS   a handler waits for the change: a deadlock;
 *   -DPLAIN_RESTORE   the closer stores the previous value of `access`: a window that the signal's wipe does not know of.
 *
 * With -DHANDLES it models the last handle instead: threads free their handles, each counted by its shard, while another
 * thread releases the Arena object, which counts the remaining handles. Whoever releases the last one frees the metadata.
 * With -DSPLIT_RELEASE, counting a handle and checking whether the object is gone are two critical sections; Spin must then
 * find that the metadata is freed too early.
 */

#ifndef HANDLES

mtype = { OPEN, FROZEN, CHANGING, DESTROYED };

mtype access = OPEN;
byte windows = 0;      /* open for writing, in memory */
byte wiping = 0;       /* frees in progress, in memory */
short windows_buffer = 0;  /* stores of the first thread that have not drained */
short wiping_buffer = 0;
bool wiped = false;    /* the pages are gone */
bool is_frozen = false;
bool is_taken = false;  /* a signal's wipe has begun and counted the windows */
bool is_late = false;   /* it knows of a window and waits for it */

inline drain() {
  d_step {
    windows = windows + windows_buffer;
    wiping = wiping + wiping_buffer;
    windows_buffer = 0;
    wiping_buffer = 0;
  }
}

/* A buffer drains at any time. */
active proctype buffer() {
end:
  do
  :: windows_buffer != 0 || wiping_buffer != 0 -> drain()
  od
}

/* A handler's window for writing; it may not wait for a change. */
inline handler() {
  windows++;
  if
  :: access == OPEN ->
     assert(!wiped && !is_frozen);
     assert(!is_taken || is_late);
     windows--
  :: access == CHANGING ->
     windows--;
#ifdef HANDLER_WAITS
     access != CHANGING
#else
     skip
#endif
  :: access == FROZEN || access == DESTROYED -> windows--
  fi
}

active proctype user() {
  byte tries = 0;
  /* A window for writing. */
  do
  :: tries < 2 ->
     tries++;
     windows_buffer++;
     if
     :: access == OPEN ->
        assert(!wiped);      /* the body begins: its pages exist, */
        assert(!is_frozen);  /* and are writable */
        assert(!is_taken || is_late);
        assert(!wiped && !is_frozen);  /* and still are when it ends */
        windows_buffer--;
        break
     :: access == CHANGING -> windows_buffer--
     :: access == FROZEN || access == DESTROYED -> windows_buffer--; break
     fi
  :: else -> break
  od;
  /* A free: allowed while the arena is frozen. */
  tries = 0;
  do
  :: tries < 2 ->
     tries++;
     wiping_buffer++;
     if
     :: access == OPEN || access == FROZEN ->
        assert(!wiped);
        if
        :: drain(); handler()  /* the kernel's entry drains the buffer */
        :: skip
        fi;
        assert(!wiped);
        wiping_buffer--;
        break
     :: access == CHANGING -> wiping_buffer--
     :: access == DESTROYED -> wiping_buffer--; break
     fi
  :: else -> break
  od
}

inline restore(value) {
#ifdef PLAIN_RESTORE
  access = value
#else
  if
  :: atomic { access == CHANGING -> access = value }
  :: access == DESTROYED  /* by a signal: it stays so */
  fi
#endif
}

inline change(after) {
  atomic { before = access; access = CHANGING };
#ifndef NO_BARRIER
  drain();
#endif
  if
  :: handler()
  :: skip
  fi;
  if
  :: windows > 0 -> restore(before)   /* refused */
  :: else ->
     wiping == 0;                     /* waits for frees */
     if
     :: after == DESTROYED -> wiped = true
     :: else -> is_frozen = true
     fi;
     restore(after)
  fi
}

active proctype closer() {
  mtype before;
  if
  :: change(FROZEN)
  :: skip
  fi;
  change(DESTROYED)
}

/* A signal that ends the process, on its own thread; or none. */
active proctype signal() {
  if
  :: skip
  :: access = DESTROYED;
     atomic {
       drain();
       is_late = windows > 0;
       is_taken = true
     }
  fi
}

#else

bool is_locked = false;  /* the shard's */
byte handles = 2;
bool is_orphan = false;
byte orphans = 0;
bool is_freed = false;

inline lock() {
  atomic { !is_locked -> is_locked = true };
  assert(!is_freed)
}

inline unlock() {
  assert(!is_freed);
  is_locked = false
}

/* Remaining handles are released by one atomic subtraction, which also orders earlier accesses. */
inline release() {
  d_step {
    assert(!is_freed);
    orphans--;
    is_last = orphans == 0
  };
  if
  :: is_last -> is_freed = true
  :: else
  fi
}

active [2] proctype freer() {
  bool is_last, is_orphans;
  lock();
  handles--;
  is_orphans = is_orphan;
  unlock();
#ifdef SPLIT_RELEASE
  lock();
  is_orphans = is_orphan;
  unlock();
#endif
  if
  :: is_orphans -> release()
  :: else
  fi
}

active proctype dropper() {
  bool is_last;
  lock();
  is_orphan = true;
  orphans = orphans + handles + 1;
  unlock();
  release()
}

#endif

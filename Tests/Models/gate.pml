/*
 * The gate of an arena: windows and frees against whoever freezes or destroys it, against a signal's
 * wipe, and against signal handlers that open windows. Spin explores every interleaving of the
 * threads, and of the first one's store buffer.
 *
 * A thread counts its window by a plain store, which other threads see when the buffer drains, and
 * then looks at `access`. The closer sets `access`, has every thread pass a barrier (which drains
 * the buffers), and reads the counts. A handler that finds the access changing gives up where the
 * thread that it interrupted may be what the change waits for: the closer itself, or a thread inside
 * of a free. A signal's wipe waits for nobody: it sets `access` whatever it is.
 *
 * What Spin must find when the model is compiled with
 *   -DNO_BARRIER      the closer goes on without one: a window in a destroyed arena;
 *   -DHANDLER_WAITS   a handler waits for the change: nobody moves any more;
 *   -DPLAIN_RESTORE   the closer stores what `access` was before: a window that a signal's wipe
 *                     knows nothing of.
 *
 * With -DHANDLES it is about the last handle instead: threads free their handles, each counted by its
 * lane, while another lets the Arena object go, which counts what is left. Whoever counts the last one
 * out frees the metadata. With -DSPLIT_RELEASE a handle is counted out in one critical section, and
 * whether the object is gone is looked at in another: then Spin must find that it is freed too early.
 */

#ifndef HANDLES

mtype = { OPEN, FROZEN, CHANGING, DESTROYED };

mtype access = OPEN;
byte windows = 0;      /* open for writing, as memory has it */
byte wiping = 0;       /* frees under way, as memory has it */
short windows_buffer = 0;  /* stores of the first thread that have not drained */
short wiping_buffer = 0;
bool wiped = false;    /* the pages are gone */
bool is_frozen = false;
bool is_taken = false;  /* a signal's wipe has begun, and counted the windows */
bool is_late = false;   /* it knows of one, and waits for it */

inline drain() {
  d_step {
    windows = windows + windows_buffer;
    wiping = wiping + wiping_buffer;
    windows_buffer = 0;
    wiping_buffer = 0;
  }
}

/* A buffer drains whenever it likes. */
active proctype buffer() {
end:
  do
  :: windows_buffer != 0 || wiping_buffer != 0 -> drain()
  od
}

/* A handler's window for writing, where it may not wait for a change. */
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
        assert(!wiped);      /* the body begins: its pages are there, */
        assert(!is_frozen);  /* and may be written */
        assert(!is_taken || is_late);
        assert(!wiped && !is_frozen);  /* and so when it ends */
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
  :: access == DESTROYED  /* by a signal: and so it stays */
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

/* A signal that ends the process, on a thread of its own; or none. */
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

bool is_locked = false;  /* the lane's */
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

/* Orphans are counted out by one atomic subtraction, which also orders what was done before. */
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

/*
 * The gate of an arena: windows and frees against whoever freezes or destroys it. Spin explores
 * every interleaving of the two threads, and of the first one's store buffer.
 *
 * A thread counts its window by a plain store, which other threads see when the buffer drains, and
 * then looks at `access`. The closer sets `access`, has every thread pass a barrier (which drains
 * the buffers), and reads the counts. Compiled with -DNO_BARRIER the closer goes on without one:
 * then Spin must find a window in a destroyed arena.
 */

mtype = { OPEN, FROZEN, CHANGING, DESTROYED };

mtype access = OPEN;
byte windows = 0;      /* open for writing, as memory has it */
byte wiping = 0;       /* frees under way, as memory has it */
short windows_buffer = 0;  /* stores of the first thread that have not drained */
short wiping_buffer = 0;
bool wiped = false;    /* the pages are gone */
bool is_frozen = false;

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
        skip;
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
        skip;
        assert(!wiped);
        wiping_buffer--;
        break
     :: access == CHANGING -> wiping_buffer--
     :: access == DESTROYED -> wiping_buffer--; break
     fi
  :: else -> break
  od
}

inline change(after) {
  before = access;
  access = CHANGING;
#ifndef NO_BARRIER
  drain();
#endif
  if
  :: windows > 0 -> access = before   /* refused */
  :: else ->
     wiping == 0;                     /* waits for frees */
     if
     :: after == DESTROYED -> wiped = true
     :: else -> is_frozen = true
     fi;
     access = after
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

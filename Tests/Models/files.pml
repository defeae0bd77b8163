/*
 * Pages as files: a publisher creates a page, locks it and links it under its name, and is killed at any time. Another
 * publisher removes dead publishers' pages when it starts (StatsPageFile.create, StatsPageFile.removeStalePages).
 *
 * -DNAME_FIRST links the name before locking. -DOPENS_OWN lets the publisher's process open and close its own page, which
 * drops the lock (fcntl(2)). In both cases Spin must find a living publisher whose page was removed.
 */

bool is_alive = true;      /* the publisher */
bool is_locked = false;    /* its record lock */
bool has_name = false;     /* its page can be found */
bool was_removed = false;  /* by another publisher */

active proctype publisher() {
#ifdef NAME_FIRST
  has_name = true;
  is_locked = true;
#else
  is_locked = true;
  has_name = true;
#endif
#ifdef OPENS_OWN
  is_locked = false;
#endif
  /* It publishes while it is alive. */
}

/* SIGKILL at any time: the kernel drops the dead process's locks and keeps its files. */
active proctype killer() {
  atomic {
    is_alive = false;
    is_locked = false
  }
}

active proctype sweeper() {
  byte looks = 0;
  bool found, is_held;
  do
  :: looks < 2 ->
     looks++;
     found = has_name && !was_removed;  /* a name in the directory; its page opened */
     if
     :: found ->
        is_held = is_locked;            /* fcntl(F_GETLK) */
        if
        :: !is_held ->
           atomic {
             was_removed = true;        /* unlink(2) */
             assert(!is_alive)
           }
        :: else -> skip
        fi
     :: else -> skip
     fi
  :: else -> break
  od
}

/*
 * The scratch page of one thread number (CEnclaveCipher.h, ScratchMemory.swift). The thread that has the number
 * takes and releases pieces by changing `used` in two steps, as an instruction without a lock does. Whoever releases
 * a window that an ended thread has left open sets its bit in `returned` instead. A trimmer takes the page away
 * while no thread has the number; a wiper overwrites what any window shows. Properties: nobody uses an unmapped
 * page, two windows never share a piece, and in the end every piece is free.
 *
 * Spin must find the error if one of these is left out: the trimmer takes the number (-DNO_NUMBER), looks for
 * windows that were left open (-DNO_LOOK), and puts the page back if somebody wipes (-DNO_WIPERS); the wiper counts
 * itself before it loads the page (-DLOADS_FIRST); others do not change `used` (-DCLEARS_USED).
 */

#define PIECES 2
#define LEFT 1    /* the owner of a window whose thread has ended */
#define OTHER 2

byte page = 0;          /* 0: none */
bool mapped[6];
byte made = 0;
bool has_number = false;
byte used = 0, returned = 0;
byte owner[PIECES];
byte holders[PIECES];
byte wipers = 0;
bool is_left = false;

proctype thread(bool leaves) {
  byte now, bits, piece;
  atomic { !has_number -> has_number = true };
  if
  :: page == 0 -> atomic { made++; mapped[made] = true; page = made }
  :: else -> skip
  fi;
  if
  :: returned != 0 -> atomic { bits = returned; returned = 0 }; now = used; used = now & ~bits
  :: else -> skip
  fi;
  now = used;
  if
  :: !(now & 1) -> piece = 0
  :: (now & 1) && !(now & 2) -> piece = 1
  :: (now & 3) == 3 -> has_number = false; goto ended
  fi;
  used = now | (1 << piece);
  assert(holders[piece] == 0);
  holders[piece]++;
  owner[piece] = (leaves -> LEFT : OTHER);
  assert(page != 0 && mapped[page]);
  if
  :: leaves -> is_left = true
  :: else ->
     assert(mapped[page]);      /* wiped */
     holders[piece]--;
     owner[piece] = 0;
     now = used;
     used = now & ~(1 << piece)
  fi;
  has_number = false;
ended:
  skip
}

/* Destroys the arena of the window that was left open. */
proctype destroyer() {
  byte piece;
  is_left;
  piece = (owner[0] == LEFT -> 0 : 1);
  assert(page != 0 && mapped[page]);
  holders[piece]--;
  owner[piece] = 0;
#ifdef CLEARS_USED
  atomic { used = used & ~(1 << piece) }
#else
  atomic { returned = returned | (1 << piece) }
#endif
}

proctype trimmer() {
  byte bits, old;
#ifndef NO_NUMBER
  if
  :: atomic { !has_number -> has_number = true }
  :: has_number -> goto ended
  fi;
#endif
  bits = returned;
#ifndef NO_LOOK
  if
  :: (used & ~bits) != 0 -> goto done
  :: else -> skip
  fi;
#endif
  atomic { old = page; page = 0 };
#ifndef NO_WIPERS
  if
  :: wipers != 0 -> page = old; goto done
  :: else -> skip
  fi;
#endif
  used = 0;
  returned = 0;
  mapped[old] = false;
done:
#ifndef NO_NUMBER
  has_number = false;
#endif
ended:
  skip
}

proctype wiper() {
  byte seen, piece = 0;
#ifdef LOADS_FIRST
  seen = page;
#endif
  wipers++;
#ifndef LOADS_FIRST
  seen = page;
#endif
  do
  :: seen != 0 && piece < PIECES ->
     if
     :: owner[piece] != 0 -> assert(mapped[seen])
     :: else -> skip
     fi;
     piece++
  :: else -> break
  od;
  wipers--
}

init {
  atomic {
    run thread(true);
    run thread(false);
    run thread(false);
    run destroyer();
    run trimmer();
    run trimmer();
    run wiper()
  };
  _nr_pr == 1;
  assert((used & ~returned) == 0)
}

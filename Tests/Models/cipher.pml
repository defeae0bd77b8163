/*
 * One secret under a cipher gate (CEnclaveCipher.h, CipherWindow.swift): two writers, one after the other, a reader, a
 * signal handler that interrupts a writer at any point, a wipe by another thread, and a child that is forked at any time.
 * Stores are delayed as in page.pml: each word has its own queue, and only a fence or a release waits for other words.
 *
 * Properties: a secret is never reported as tampered with if it was not. Readers see whole contents, and never older ones
 * than before. A handler never waits, and never mistakes anything else for the contents that its thread has open. After a
 * wipe, no ciphertext remains that was encrypted with a key of zeros. A child that read its copy could wait forever, so it
 * is refused first.
 *
 * Spin must find the error if one of these is left out: the fence after the odd sequence (-DNO_FIRST_FENCE), the release at
 * the end (-DNO_RELEASE), the reader's second check of the sequence (-DREAD_ONCE), the claim (-DNO_CLAIM), the mark that the
 * scratch memory does not hold the contents (-DNO_WORKING), the handler's refusal to wait (-DHANDLER_WAITS), setting the
 * flag before wiping the key (-DKEY_FIRST), the barrier between them (-DNO_ORDER), the writer's final check of the flag
 * (-DNO_LAST_LOOK), and the child's refusal (-DCHILD_READS).
 */

#define ZEROS 0           /* a wiped ciphertext */
#define SPOILED 100       /* a ciphertext under a key of zeros */
#define NOBODY 0

/* Memory. Contents, ciphertext and tag hold the number of the last write; initially 1. */
byte sequence = 0, ciphertext = 1, tag = 1;
chan sequences = [4] of { byte };
chan ciphertexts = [4] of { byte };
chan tags = [4] of { byte };
chan flags = [1] of { bit };
chan keys = [1] of { bit };
byte writer = NOBODY;
byte newest = 1;
bool has_key = true;
bool is_wiped = false;
byte finished = 0;

#define all_written (empty(sequences) && empty(ciphertexts) && empty(tags))

active proctype memory() {
end:
  do
  :: sequences ? sequence
  :: ciphertexts ? ciphertext
  :: tags ? tag
  :: flags ? is_wiped
  :: keys ? has_key
  od
}

/* In a writer's thread: reads the secret that the thread has open. */
inline handler() {
  if
  :: interrupted || !may_interrupt -> skip
  :: !interrupted && may_interrupt ->
     interrupted = true;
     if
     :: writer == me && !is_working -> assert(holds_contents)
     :: else ->
        if
#ifdef HANDLER_WAITS
        :: is_replacing -> !is_replacing
#else
        :: is_replacing -> skip  /* busy */
#endif
        :: else -> skip          /* reads the ciphertext, like other threads */
        fi
     fi
  :: skip
  fi
}

proctype write(byte me; bool may_interrupt) {
  bool interrupted = false, is_working = false, holds_contents = false, is_replacing = false, looked;
  byte odd, made;
  /* Open. If another thread writes, the caller gets an error; here it tries again. */
#ifdef NO_WORKING
  is_working = false;
#else
  is_working = true;
#endif
#ifdef NO_CLAIM
  writer = me;
#else
  atomic { writer == NOBODY || is_wiped -> if :: is_wiped -> goto over :: else -> writer = me fi };
#endif
  handler();
  holds_contents = true;     /* decrypted into scratch memory */
  is_working = false;
  handler();
  /* The body writes. Close. */
#ifndef NO_WORKING
  is_working = true;
#endif
  handler();
  if
  :: is_wiped -> skip
  :: else ->
     holds_contents = false; /* encrypted in place */
     atomic {
       if
       :: has_key -> newest++; made = newest
       :: else -> made = SPOILED
       fi
     };
     handler();
     is_replacing = true;
     odd = sequence + 1;
     sequences ! odd;
#ifndef NO_FIRST_FENCE
     all_written;
#endif
     handler();
     ciphertexts ! made;
     tags ! made;
#ifndef NO_RELEASE
     all_written;
#endif
     sequences ! odd + 1;
     is_replacing = false;
     handler();
#ifndef NO_LAST_LOOK
     if
     :: is_wiped -> ciphertexts ! ZEROS
     :: else -> skip
     fi
#endif
  fi;
  all_written;
  writer = NOBODY;
over:
  finished++
}

active proctype reader() {
  byte before, after, c, t, known = 1;
  bool c_left, t_left, is_last = false, is_authentic;
  do
  :: !is_last ->
     is_last = finished == 2;
     before = sequence;
     if
     :: before % 2 == 1 -> skip  /* tries again */
     :: else ->
        c_left = true; t_left = true;
        do
        :: c_left -> c = ciphertext; c_left = false
        :: t_left -> t = tag; t_left = false
        :: !c_left && !t_left -> break
        od;
#ifdef READ_ONCE
        after = before;
#else
        after = sequence;
#endif
        if
        :: after != before -> skip
        :: else ->
           is_authentic = has_key && c == t && c != ZEROS;
           if
           :: is_wiped -> break  /* destroyed */
           :: else -> skip
           fi;
           if
           :: is_authentic -> assert(c >= known); known = c
           :: else ->
#ifndef READ_ONCE
              after = sequence;
#endif
              assert(after != before)  /* tampered */
           fi
        fi
     fi
  :: else -> break
  od
}

proctype wiper() {
#ifdef KEY_FIRST
  keys ! 0;
  empty(keys);
  flags ! 1;
#else
  flags ! 1;
#ifndef NO_ORDER
  empty(flags);
#endif
  keys ! 0;
#endif
  empty(flags) && empty(keys);
  ciphertexts ! ZEROS;
  finished == 2;
  all_written;
  assert(ciphertext != SPOILED)
}

/* It has a copy of all memory, and no other thread. */
proctype child() {
  byte its_writer, its_sequence;
  atomic { its_writer = writer; its_sequence = sequence };
#ifdef CHILD_READS
  its_writer == NOBODY && its_sequence % 2 == 0
#endif
}

init {
  atomic {
    run write(1, true);
    run write(2, false);
    run child();
    if
    :: run wiper()
    :: skip
    fi
  }
}

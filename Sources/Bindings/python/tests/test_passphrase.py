"""Passphrases, typed on a terminal or read from a pipe."""

import os
import pty
import select
import signal
import sys
import time
import unittest

from support import ROOT, make_arena


PROMPTED = """
import ctypes, getpass, os, sys
import enclave
arena = enclave.Arena("typed", lock=enclave.Lock.OFF)
if sys.argv[1] == "secret":
    secret = arena.read_passphrase("Passphrase: ")
    kept, size = secret, secret.size
else:
    kept = getpass.getpass("Passphrase: ")
    size = len(kept)
print("ready", size, flush=True)
sys.stdin.readline()
"""


class PassphraseTests(unittest.TestCase):
    def on_a_terminal(self, script, *arguments):
        """Starts a process in its own session, with its own terminal."""
        child, terminal = pty.fork()
        if child == 0:
            try:
                os.environ["PYTHONPATH"] = ROOT
                os.execv(sys.executable, [sys.executable, "-c", script, *arguments])
            finally:
                os._exit(127)
        self.addCleanup(self.end, child, terminal)
        return child, terminal

    def end(self, child, terminal):
        os.close(terminal)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass

    def until(self, terminal, text):
        shown = b""
        deadline = time.monotonic() + 60
        while text not in shown:
            self.assertLess(time.monotonic(), deadline, shown)
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    shown += os.read(terminal, 1000)
                except OSError:
                    self.fail(f"the terminal closed: {shown!r}")
        return shown

    def places(self, process, text):
        """The mappings of a child that contain a text."""
        found = []
        with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as memory:
            for line in maps:
                addresses, rest = line.split(" ", 1)
                start, end = (int(part, 16) for part in addresses.split("-"))
                if end - start > 1 << 30 or "[v" in rest:
                    continue
                try:
                    memory.seek(start)
                    if text in memory.read(end - start):
                        found.append(rest.strip())
                except OSError:
                    pass
        return found

    def typed(self, how):
        child, terminal = self.on_a_terminal(PROMPTED, how)
        self.until(terminal, b"Passphrase: ")
        text = b"correct-horse-" + os.urandom(8).hex().encode()
        os.write(terminal, text + b"\n")
        shown = self.until(terminal, b"ready %d" % len(text))
        self.assertNotIn(b"correct", shown)
        return child, text

    def test_passphrases_are_only_in_their_secret(self):
        child, text = self.typed("secret")
        try:
            found = self.places(child, text)
        except PermissionError:
            self.skipTest("a child's memory cannot be read here")
        self.assertEqual(len(found), 1, found)
        self.assertTrue(found[0].startswith("---p"), found)

    def test_getpass_leaves_copies_in_memory(self):
        child, text = self.typed("getpass")
        try:
            found = self.places(child, text)
        except PermissionError:
            self.skipTest("a child's memory cannot be read here")
        self.assertTrue(any(place.startswith("rw") for place in found), found)

    def test_ctrl_c_is_a_keyboard_interrupt(self):
        child, terminal = self.on_a_terminal(
            "import enclave\n"
            "arena = enclave.Arena('typed', lock=enclave.Lock.OFF)\n"
            "try: arena.read_passphrase('? ')\n"
            "except KeyboardInterrupt: print('interrupted', flush=True)\n"
            "input()\n"
        )
        self.until(terminal, b"? ")
        os.write(terminal, b"abc\x03")
        self.until(terminal, b"interrupted")

    def test_pipes_are_read_to_the_newline(self):
        arena = make_arena()
        reader, writer = os.pipe()
        os.write(writer, b"open sesame\nrest")
        os.close(writer)
        try:
            secret = arena.read_passphrase(descriptor=reader)
            self.assertTrue(secret.equals(b"open sesame"))
            with self.assertRaises(EOFError):
                arena.read_passphrase(descriptor=reader)
        finally:
            os.close(reader)
        with self.assertRaises(ValueError):
            arena.read_passphrase(limit=0)

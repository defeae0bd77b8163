"""KeyboardInterrupt at any bytecode: no window and no secret is lost."""

import dis
import gc
import os
import sys
import unittest
import warnings

import enclave

from support import make_arena


class Interrupting:
    """Raises KeyboardInterrupt before the bytecode with a given number, counted over everything that a
    block runs in the package. (CPython checks for signals at fewer places.)"""

    FOLDER = os.path.dirname(os.path.abspath(enclave.__file__))

    def __init__(self, number):
        self.left = number
        self.is_done = False

    def trace(self, frame, event, argument):
        if os.path.dirname(frame.f_code.co_filename) != self.FOLDER:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event in ("call", "opcode") and not self.is_done and not self.leaves_a_lock(frame):
            self.left -= 1
            if self.left < 0:
                self.is_done = True
                raise KeyboardInterrupt
        return self.trace

    def leaves_a_lock(self, frame):
        """Between a block's last bytecode and the lock's `__exit__`, where CPython checks for no signal."""
        return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("LOAD_CONST", "CALL", "PRECALL")

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, kind, error, traceback):
        sys.settrace(None)
        return kind is KeyboardInterrupt


class InterruptTests(unittest.TestCase):
    """Ctrl-C at any point leaves no window open, no secret behind and no view alive."""

    def each(self, body, arena):
        number = 0
        is_over = False
        while not is_over:
            seen = []
            with Interrupting(number) as interrupting:
                body(seen)
            is_over = not interrupting.is_done
            if arena.statistics.secret_count != 1:
                gc.collect()  # (A traceback may be part of a cycle.)
            self.assertEqual(arena.statistics.open_windows, 0, number)
            self.assertEqual(arena.statistics.secret_count, 1, number)
            for view in seen:
                with self.assertRaises(ValueError, msg=number):
                    view[0]
            number += 1
        self.assertGreater(number, 20)

    def setUp(self):
        self.arena = make_arena(gate=enclave.Gate.NONE)
        self.secret = self.arena.allocate_copying(b"kept")

    def test_in_windows(self):
        def body(seen):
            with self.secret.write() as view:
                seen.append(view)
                seen.append(view[1:])
                with self.secret.read() as inner:
                    seen.append(inner)

        self.each(body, self.arena)
        self.assertTrue(self.secret.equals(b"kept"))

    def test_in_allocations(self):
        def body(seen):
            self.arena.allocate(8)
            self.arena.allocate_random(8)
            self.arena.allocate_copying(b"abc")
            self.secret.copy_into(self.arena)
            with self.arena.allocate(8) as secret:
                secret.resize(100)

        self.each(body, self.arena)

    def test_in_reading(self):
        descriptors = os.listdir("/proc/self/fd")

        def body(seen):
            self.arena.read_file("/proc/self/comm")
            reader, writer = os.pipe()
            try:
                os.write(writer, b"a line\n")
                self.arena.read_passphrase(descriptor=reader)
            finally:
                os.close(reader)
                os.close(writer)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a file that nobody got to close
            self.each(body, self.arena)
        self.assertEqual(os.listdir("/proc/self/fd"), descriptors)

    def test_in_resizing(self):
        def body(seen):
            self.secret.resize(4000)
            self.secret.resize(4)

        self.each(body, self.arena)
        self.secret.resize(4)
        self.assertTrue(self.secret.equals(b"kept"))

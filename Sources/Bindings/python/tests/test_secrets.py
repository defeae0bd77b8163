"""Secrets: where their bytes come from, and what becomes of them."""

import array
import gc
import os
import pickle
import sys
import tempfile
import unittest

import enclave

from support import make_arena


class SecretTests(unittest.TestCase):
    def setUp(self):
        self.arena = make_arena()

    def contents(self, secret):
        with secret.read() as view:
            return bytes(view)

    def test_bytearray_sources_are_wiped(self):
        source = bytearray(b"hunter2")
        secret = self.arena.allocate_wiping(source)
        self.assertEqual(source, bytes(7))
        self.assertEqual(self.contents(secret), b"hunter2")
        numbers = array.array("I", [1, 2, 3])
        secret = self.arena.allocate_wiping(numbers)
        self.assertEqual(numbers.tolist(), [0, 0, 0])
        self.assertEqual(secret.size, 12)
        self.assertEqual(self.arena.allocate_wiping(bytearray()).size, 0)

    def test_sources_that_cannot_be_wiped_are_refused(self):
        for source in (b"bytes", "str", memoryview(b"bytes")):
            with self.assertRaises(TypeError):
                self.arena.allocate_wiping(source)
        with self.assertRaises(TypeError):
            enclave.wipe(b"bytes")
        buffer = bytearray(b"abc")
        enclave.wipe(buffer)
        self.assertEqual(buffer, bytes(3))

    def test_failed_allocations_keep_their_source(self):
        source = bytearray(b"hunter2")
        self.arena.freeze()
        with self.assertRaises(enclave.FrozenError):
            self.arena.allocate_wiping(source)
        self.assertEqual(source, b"hunter2")

    def test_copying_keeps_the_source(self):
        for source in (b"abc", bytearray(b"abc"), memoryview(b"abc"), array.array("B", b"abc")):
            self.assertEqual(self.contents(self.arena.allocate_copying(source)), b"abc")
        with self.assertRaises(TypeError):
            self.arena.allocate_copying("abc")

    def test_random_secrets_differ(self):
        a, b = self.arena.allocate_random(32), self.arena.allocate_random(32)
        self.assertFalse(a.equals(b))

    def test_secrets_are_compared(self):
        secret = self.arena.allocate_copying(b"token")
        same = secret.copy_into(make_arena("other"))
        for other in (b"token", bytearray(b"token"), memoryview(b"token"), same):
            self.assertTrue(secret.equals(other))
        for other in (b"tokem", b"toke", b"", self.arena.allocate(5)):
            self.assertFalse(secret.equals(other))

    def test_copies_are_labelled_with_the_caller_s_line(self):
        labels = []

        class Other(enclave.Arena):
            def _allocate(self, size, alignment, label):
                labels.append(label)
                return super()._allocate(size, alignment, label)

        secret = self.arena.allocate(1)
        other = Other("other", lock=enclave.Lock.PREFERRED)
        secret.copy_into(other)
        line = sys._getframe().f_lineno - 1
        secret.copy_into(other, label="a copy")
        self.assertEqual(labels, [f"{os.path.basename(__file__)}:{line}", "a copy"])

    def test_resizing(self):
        secret = self.arena.allocate_copying(b"abcdef")
        secret.resize(3)
        self.assertEqual((self.contents(secret), len(secret)), (b"abc", 3))
        secret.resize(5000)
        self.assertEqual(self.contents(secret), b"abc" + bytes(4997))
        with secret.read() as view:
            with self.assertRaises(enclave.WindowsOpenError):
                secret.resize(1)
            self.assertEqual(len(view), 5000)
        with self.assertRaises(enclave.SizeError):
            secret.resize(3 << 30)
        self.assertEqual(len(secret), 5000)

    def test_destroying(self):
        secret = self.arena.allocate(8)
        self.assertTrue(secret.is_alive)
        with secret.read():
            with self.assertRaises(enclave.WindowsOpenError):
                secret.destroy()
        secret.destroy()
        secret.destroy()
        self.assertFalse(secret.is_alive)
        for use in (secret.read().__enter__, lambda: secret.size, lambda: secret.resize(1)):
            with self.assertRaises(enclave.DestroyedError):
                use()
        with self.arena.allocate(8) as secret:
            pass
        self.assertFalse(secret.is_alive)
        self.assertTrue(self.arena.allocate(0).is_alive)

    def test_the_last_reference_frees_a_secret(self):
        secret = self.arena.allocate(8)
        self.assertEqual(self.arena.statistics.secret_count, 1)
        del secret
        gc.collect()
        self.assertEqual(self.arena.statistics.secret_count, 0)

    def test_contents_are_neither_shown_nor_pickled(self):
        secret = self.arena.allocate_copying(b"hunter2")
        self.assertEqual(repr(secret), "<Secret of 7 bytes>")
        self.assertEqual(repr(self.arena), "<Arena 'test'>")
        for thing in (secret, self.arena):
            with self.assertRaises(TypeError):
                pickle.dumps(thing)

    def test_files(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"k" * 100)
            file.flush()
            self.assertEqual(self.contents(self.arena.read_file(file.name)), b"k" * 100)
            self.assertEqual(len(self.arena.read_file(file.name, limit=100)), 100)
            with self.assertRaises(EOFError):
                self.arena.read_file(file.name, limit=99)
        self.assertTrue(self.contents(self.arena.read_file("/proc/self/comm")))
        with self.assertRaises(FileNotFoundError):
            self.arena.read_file("/nowhere")
        self.assertEqual(self.arena.statistics.secret_count, 0)

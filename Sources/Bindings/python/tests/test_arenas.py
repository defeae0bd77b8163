"""Arenas: options, life cycle and violations."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import unittest

import enclave

from support import ROOT, gates, make_arena, run


def readable_by_all():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import enclave"
    try:
        return subprocess.run(
            [sys.executable, "-c", program, ROOT], user=65534, stderr=subprocess.DEVNULL
        ).returncode == 0
    except PermissionError:
        return False


class ArenaTests(unittest.TestCase):
    def test_options(self):
        with make_arena(layout=enclave.Layout.ISOLATED, ends_at_guard=True) as arena:
            secret = arena.allocate(30)
            with secret.read():
                pass
        with make_arena(kept_at_exit=True, capacity=4096) as arena:
            with self.assertRaises(enclave.CapacityError):
                arena.allocate(100_000)
        with self.assertRaises(ValueError):
            make_arena(capacity=0)
        with self.assertRaises(enclave.ArgumentError):
            make_arena(gate=7)
        with self.assertRaises(ValueError):
            make_arena("a\0b")
        self.assertEqual(make_arena("ключ").name, "ключ")
        if not enclave.is_available(enclave.Capability.PROTECTION_KEYS):
            with self.assertRaises(enclave.UnsupportedError):
                make_arena(own_key=True, gate=enclave.Gate.KEY).allocate(1)
        if not enclave.is_available(enclave.Capability.MEMORY_TAGGING):
            with self.assertRaises(enclave.UnsupportedError) as caught:
                make_arena(tagged=True).allocate(1)
            self.assertEqual(caught.exception.status, enclave.Status.UNSUPPORTED)
        if enclave.is_available(enclave.Capability.SECRET_MEMORY):
            make_arena(secret_memory=True).allocate(1)

    def test_freezing(self):
        arena = make_arena()
        secret = arena.allocate_copying(b"abc")
        with secret.write():
            with self.assertRaises(enclave.WindowsOpenError):
                arena.freeze()
        arena.freeze()
        with self.assertRaises(enclave.FrozenError):
            secret.write().__enter__()
        with self.assertRaises(enclave.FrozenError):
            arena.allocate(1)
        self.assertTrue(secret.equals(b"abc"))
        secret.destroy()
        self.assertTrue(arena.statistics.is_frozen)
        self.assertEqual(arena.statistics.retired_slots, 1)

    def test_sealing(self):
        arena = make_arena(gate=enclave.Gate.PAGES)
        with self.assertRaises(enclave.NeedsKeyError):
            arena.seal()
        if not enclave.is_available(enclave.Capability.SEALS):
            self.skipTest("the kernel has no mseal(2)")
        for gate in set(gates()) & {enclave.Gate.KEY, enclave.Gate.CIPHER}:
            sealed = make_arena(gate=gate)
            secret = sealed.allocate(1)
            sealed.seal()
            self.assertTrue(sealed.statistics.is_sealed)
            self.assertTrue(secret.equals(b"\0"))

    def test_destroying(self):
        arena = make_arena()
        secret = arena.allocate(8)
        with secret.read():
            with self.assertRaises(enclave.WindowsOpenError):
                arena.destroy()
        arena.destroy()
        arena.destroy()
        self.assertFalse(secret.is_alive)
        with self.assertRaises(enclave.DestroyedError):
            secret.read().__enter__()
        with self.assertRaises(enclave.DestroyedError):
            arena.allocate(1)
        secret.destroy()

    def test_an_arena_lives_as_long_as_its_secrets(self):
        secret = make_arena().allocate_copying(b"abc")
        gc.collect()
        self.assertTrue(secret.equals(b"abc"))

    def test_trimming_and_checking(self):
        arena = make_arena()
        arena.allocate(100_000).destroy()
        idle = arena.statistics.idle_bytes
        self.assertEqual(arena.trim(), idle)
        self.assertEqual(arena.check(), [])

    OVERFLOW = """
    import ctypes, enclave
    arena = enclave.Arena("overflow", lock=enclave.Lock.OFF, gate=enclave.Gate.NONE)
    secret = arena.allocate(32, label="too short")
    with secret.write() as view:
        state = enclave._secret._thread.windows[-1].state
        ctypes.c_ubyte.from_address(state.bytes + 32).value ^= 0xff
    (found,) = arena.check()
    assert found.kind == enclave.ViolationKind.OVERFLOW, found
    assert (found.arena, found.label, found.offset) == ("overflow", "too short", 32), found
    heard = []
    def answer(violation):
        heard.append(violation)
        return enclave.Response.CONTINUE
    enclave.set_violation_handler(answer)
    secret.destroy()
    assert [each.kind for each in heard] == [enclave.ViolationKind.OVERFLOW], heard
    enclave.set_violation_handler(None)
    print("ok", flush=True)
    secret = arena.allocate(32)
    with secret.write() as view:
        state = enclave._secret._thread.windows[-1].state
        ctypes.c_ubyte.from_address(state.bytes + 32).value ^= 0xff
    secret.destroy()
    print("not reached")
    """

    def test_violations(self):
        result = run(self.OVERFLOW)
        self.assertEqual((result.returncode, result.stdout), (-signal.SIGABRT, b"ok\n"), result.stderr)
        self.assertIn(b"overflow", result.stderr)

    SWALLOWED = """
    import ctypes, enclave
    arena = enclave.Arena("overflow", lock=enclave.Lock.OFF, gate=enclave.Gate.NONE)
    secret = arena.allocate(32)
    with secret.write() as view:
        state = enclave._secret._thread.windows[-1].state
        ctypes.c_ubyte.from_address(state.bytes + 32).value ^= 0xff
        made = enclave._arena.violation_of
        def broken(given):
            raise KeyboardInterrupt("in the callback")
        enclave._arena.violation_of = broken
        try:
            arena.check()
        except KeyboardInterrupt as error:
            print(error)
        enclave._arena.violation_of = made
        each = enclave._arena.c.EACH
        enclave._arena.c.EACH = lambda called: each(lambda violation, context: 1 / 0)
        try:
            arena.check()
        except RuntimeError as error:
            print(str(error).split(":")[0])
        ctypes.c_ubyte.from_address(state.bytes + 32).value ^= 0xff
    """

    def test_violations_that_a_callback_swallows_are_an_error(self):
        result = run(self.SWALLOWED)
        expected = b"in the callback\n1 violations, of which 1 are not told\n"
        self.assertEqual((result.returncode, result.stdout), (0, expected), result.stderr)

    def test_every_status_has_an_exception_class(self):
        from enclave._errors import make_error

        kinds = {type(make_error(status, "", 0)) for status in enclave.Status if status}
        self.assertEqual(len(kinds), len(enclave.Status) - 1)
        self.assertTrue(all(issubclass(kind, enclave.EnclaveError) for kind in kinds))
        self.assertIs(type(make_error(99, "new", 0)), enclave.EnclaveError)
        error = make_error(enclave.Status.SYSTEM, "text", 12)
        copy = pickle.loads(pickle.dumps(error))
        self.assertEqual((str(copy), copy.status, copy.errno), ("text", 1, 12))

    def test_required_locks_are_required(self):
        script = """
        import enclave, resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        try:
            enclave.Arena("locked").allocate(1)
        except enclave.LockLimitError as error:
            assert "RLIMIT_MEMLOCK" in str(error), error
            print("refused")
        """
        # (Root can lock any amount, so root runs the script as an ordinary user.)
        options = {"user": 65534} if os.geteuid() == 0 else {}
        if options and sys.version_info < (3, 9):
            self.skipTest("subprocess cannot change the user before Python 3.9")
        if options and not readable_by_all():
            self.skipTest("an ordinary user cannot read the package here")
        self.assertEqual(run(script, **options).stdout, b"refused\n")

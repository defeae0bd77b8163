"""Tests of the package's public interface: python3 -m unittest discover -s tests, or pytest."""

import array
import asyncio
import ctypes
import dis
import gc
import hashlib
import hmac
import os
import pickle
import pty
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
import warnings

import enclave

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(enclave.__file__)))


def make_arena(name="test", **options):
    """An arena that also works on machines where the memory cannot be locked."""
    options.setdefault("lock", enclave.Lock.PREFERRED)
    return enclave.Arena(name, **options)


def gates():
    """The gates that this machine supports."""
    for gate in enclave.Gate:
        if gate == enclave.Gate.KEY and not enclave.is_available(
            enclave.Capability.PROTECTION_KEYS
        ):
            continue
        if gate == enclave.Gate.CIPHER:
            try:
                with make_arena(gate=gate) as arena:
                    arena.allocate(1)
            except enclave.UnsupportedError:
                continue  # the library was built without libsodium
        yield gate


def run(script, *arguments, **options):
    """Runs a script in a process of its own, which may crash."""
    environment = dict(os.environ, PYTHONPATH=ROOT)
    # Some scripts fault on purpose: no core file, and no crash output on the terminal.
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, **options,
    )


class WindowTests(unittest.TestCase):
    def test_bytes_are_kept_under_every_gate_and_layout(self):
        for gate in gates():
            for layout in enclave.Layout:
                with self.subTest(gate=gate, layout=layout), make_arena(
                    gate=gate, layout=layout
                ) as arena:
                    secret = arena.allocate(300)
                    with secret.write() as view:
                        self.assertEqual(bytes(view), bytes(300))
                        view[:] = b"x" * 300
                    with secret.read() as view:
                        self.assertEqual(bytes(view), b"x" * 300)
                        self.assertTrue(view.readonly)
                        with self.assertRaises(TypeError):
                            view[0] = 1
                        with secret.read() as inner:  # windows nest
                            self.assertEqual(inner[0], view[0])
                    self.assertEqual(arena.statistics.open_windows, 0)

    def test_views_are_released_after_their_window(self):
        secret = make_arena().allocate(16)
        with secret.write() as view:
            view[0] = 1
        with self.assertRaises(ValueError):
            view[0]
        with self.assertRaises(ValueError):
            view[0] = 2
        with self.assertRaises(ValueError):
            bytes(view)

    def test_slices_and_casts_are_released_too(self):
        secret = make_arena().allocate(16)
        with secret.read() as view:
            others = [view[3:5], view[1:][1:], view.cast("I"), memoryview(view), view.toreadonly()]
            kept = view.tobytes()
        for other in others:
            with self.assertRaises(ValueError):
                other[0]
        self.assertEqual(kept, bytes(16))

    def test_slices_in_a_traceback_are_released_too(self):
        secret = make_arena().allocate(16)

        def broken(view):
            part = view[2:4]
            raise KeyError(len(part))

        try:
            with secret.read() as view:
                broken(view)
            self.fail("no exception was raised")
        except KeyError as error:
            last = error.__traceback__
            while last.tb_next:
                last = last.tb_next
            with self.assertRaises(ValueError):
                last.tb_frame.f_locals["part"][0]

    def test_exported_buffers_are_an_error(self):
        secret = make_arena(gate=enclave.Gate.NONE).allocate(16)
        with self.assertRaises(BufferError):
            with secret.write() as view:
                exported = pickle.PickleBuffer(view)
        self.assertEqual(secret._arena.statistics.open_windows, 0)
        del exported

    def test_a_window_serves_one_block(self):
        window = make_arena().allocate(1).read()
        with window:
            pass
        with self.assertRaises(RuntimeError):
            with window:
                pass

    def test_exceptions_of_the_block_propagate(self):
        arena = make_arena()
        secret = arena.allocate(1)
        with self.assertRaises(KeyError):
            with secret.write():
                raise KeyError
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_abandoned_windows_are_closed_when_collected(self):
        arena = make_arena()
        window = arena.allocate(1).read()
        view = window.__enter__()
        self.assertEqual(arena.statistics.open_windows, 1)
        del window
        self.assertEqual(arena.statistics.open_windows, 0)
        with self.assertRaises(ValueError):
            view[0]

    def test_windows_dropped_by_another_thread_are_closed_by_their_own(self):
        arena = make_arena()
        held = [arena.allocate(1).read()]
        held[0].__enter__()
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
        self.assertEqual(arena.statistics.open_windows, 1)
        arena.destroy()
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_windows_of_ended_threads_keep_their_secret(self):
        arena = make_arena()
        held = []

        def work():
            held.append(arena.allocate(1).read())
            held[0].__enter__()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        held.clear()
        # Freeing it would be a violation, which ends the process.
        self.assertEqual(arena.statistics.secret_count, 1)

    def test_windows_may_end_in_any_order(self):
        arena = make_arena()
        first, second = arena.allocate(1), arena.allocate(1)
        outer, inner = first.read(), second.read()
        outer.__enter__()
        inner.__enter__()
        with self.assertRaises(enclave.WindowOrderError):
            outer.__exit__(None, None, None)
        with self.assertRaises(enclave.WindowsOpenError):
            first.destroy()
        inner.__exit__(None, None, None)
        self.assertEqual(arena.statistics.open_windows, 0)
        first.destroy()

    def test_awaiting_in_a_window_warns(self):
        arena = make_arena()

        async def sign(delay):
            with arena.allocate(1).read():
                await asyncio.sleep(delay)

        async def both():
            return await asyncio.gather(sign(0.02), sign(0.2), return_exceptions=True)

        results = asyncio.run(both())
        self.assertIsInstance(results[0], enclave.WindowOrderError)
        self.assertIsNone(results[1])
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_views_are_buffers(self):
        with make_arena().allocate_copying(b"key") as key, key.read() as view:
            self.assertEqual(
                hmac.digest(view, b"message", "sha256"),
                hmac.new(b"key", b"message", "sha256").digest(),
            )
            self.assertEqual(hashlib.sha256(view).digest(), hashlib.sha256(b"key").digest())

    FAULT = """
    import ctypes, enclave, sys
    arena = enclave.Arena("fault", lock=enclave.Lock.OFF, gate=enclave.Gate[sys.argv[1]])
    secret = arena.allocate(16)
    with secret.read() as view:
        address = enclave._secret._thread.windows[-1].state.bytes
    ctypes.string_at(address, 16)
    print("read")
    """

    def test_raw_pointers_fault_after_the_window(self):
        result = run(self.FAULT, "PAGES")
        self.assertEqual((result.returncode, result.stdout), (-signal.SIGSEGV, b""))
        # Without a gate the same read succeeds.
        result = run(self.FAULT, "NONE")
        self.assertEqual((result.returncode, result.stdout), (0, b"read\n"))


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
        self.assertEqual(labels, [f"test_enclave.py:{line}", "a copy"])

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
        return enclave.Response.GO_ON
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


def readable_by_all():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import enclave"
    try:
        return subprocess.run(
            [sys.executable, "-c", program, ROOT], user=65534, stderr=subprocess.DEVNULL
        ).returncode == 0
    except PermissionError:
        return False


class ProcessTests(unittest.TestCase):
    def test_a_forked_child_gets_typed_errors(self):
        arena = make_arena()
        secret = arena.allocate_copying(b"abc")
        window = secret.read()
        view = window.__enter__()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = []
            try:
                for use in (
                    lambda: secret.write().__enter__(),
                    lambda: arena.allocate(1),
                    lambda: secret.resize(1),
                    arena.freeze,
                    secret.destroy,
                    lambda: arena.statistics,
                    lambda: window.__exit__(None, None, None),
                ):
                    try:
                        use()
                        said.append("nothing")
                    except BaseException as error:
                        said.append(type(error).__name__)
                said.append(str(secret.is_alive))
                with make_arena() as own:
                    said.append(str(own.allocate_copying(b"own").equals(b"own")))
                with arena, secret:
                    pass
            finally:
                os.write(writer, " ".join(said).encode())
                os._exit(0)
        os.close(writer)
        with open(reader) as stream:
            said = stream.read()
        os.waitpid(child, 0)
        self.assertEqual(said, "InheritedByForkError " * 7 + "False True")
        self.assertEqual(bytes(view), b"abc")
        window.__exit__(None, None, None)
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_children_do_not_wait_for_their_parent_s_locks(self):
        def use(secret):
            try:
                secret.read().__enter__()
            except enclave.InheritedByForkError:
                return
            os._exit(2)

        secret = make_arena().allocate(1)
        with secret._lock:
            # As if another thread of the parent held it; the child has no such thread.
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                status = 1
                thread = threading.Thread(target=use, args=(secret,))
                try:
                    thread.start()
                    thread.join()
                    status = 0
                finally:
                    os._exit(status)
        _, status = os.waitpid(child, 0)
        self.assertEqual(status, 0)

    def test_windows_belong_to_threads(self):
        arena = make_arena()
        secret = arena.allocate(1)
        window = secret.read()
        window.__enter__()
        caught = []

        def other():
            try:
                window.__exit__(None, None, None)
            except enclave.EnclaveError as error:
                caught.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        self.assertIsInstance(caught[0], enclave.WindowThreadError)
        self.assertEqual(arena.statistics.open_windows, 1)
        with secret.read():  # ends the other as well, as it is over
            pass
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_threads_share_secrets(self):
        arena = make_arena()
        secret = arena.allocate_copying(b"x" * 64)
        failures = []

        def work():
            try:
                for _ in range(200):
                    self.assertTrue(secret.equals(b"x" * 64))
                    with arena.allocate_random(40) as own, own.write() as view:
                        view[0] = 1
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertEqual(arena.statistics.open_windows, 0)
        self.assertEqual(arena.statistics.secret_count, 1)

    def test_destroying_and_opening_race_without_a_violation(self):
        arena = make_arena()
        for _ in range(100):
            secret = arena.allocate(1)
            start = threading.Barrier(2)

            def read():
                start.wait()
                try:
                    with secret.read():
                        pass
                except enclave.DestroyedError:
                    pass

            thread = threading.Thread(target=read)
            thread.start()
            start.wait()
            try:
                secret.destroy()
            except enclave.WindowsOpenError:
                pass
            thread.join()
        self.assertEqual(arena.statistics.open_windows, 0)

    def test_wiping_everything(self):
        script = """
        import enclave
        arena = enclave.Arena("wiped", lock=enclave.Lock.OFF)
        secret = arena.allocate_copying(b"abc")
        try:
            with secret.read() as view:
                enclave.wipe_everything()
        except enclave.DestroyedError:
            print("told")
        try:
            secret.read().__enter__()
        except enclave.DestroyedError:
            print("gone")
        secret.destroy()
        """
        result = run(script)
        self.assertEqual((result.returncode, result.stdout), (0, b"told\ngone\n"), result.stderr)

    def test_signals_wipe_and_python_s_handlers_remain(self):
        script = """
        import enclave, os, signal, time
        enclave.wipe_on_signals()
        arena = enclave.Arena("signals", lock=enclave.Lock.OFF)
        secret = arena.allocate(1)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            print(secret.is_alive, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        """
        result = run(script)
        self.assertEqual((result.returncode, result.stdout), (-signal.SIGTERM, b"True\n"))

    def test_publishing(self):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            script = """
            import enclave, os, sys
            enclave.publish_start("served", tick_milliseconds=50)
            try:
                enclave.publish_start()
            except enclave.PublishingError:
                print(len(os.listdir(os.environ["ENCLAVE_STATS_DIR"])))
            enclave.publish_refresh()
            enclave.publish_stop()
            print(len(os.listdir(os.environ["ENCLAVE_STATS_DIR"])))
            enclave.publish_start(addresses=enclave.Addresses.NEVER)
            """
            environment = dict(os.environ, ENCLAVE_STATS_DIR=directory)
            environment.pop("ENCLAVE_STATS", None)
            before, os.environ["ENCLAVE_STATS_DIR"] = os.environ.get("ENCLAVE_STATS_DIR"), directory
            try:
                result = run(script)
            finally:
                if before is None:
                    del os.environ["ENCLAVE_STATS_DIR"]
                else:
                    os.environ["ENCLAVE_STATS_DIR"] = before
            self.assertEqual((result.returncode, result.stdout), (0, b"1\n0\n"), result.stderr)
        with self.assertRaises(enclave.ArgumentError):
            enclave.publish_start(tick_milliseconds=1)
        with self.assertRaises(ValueError):
            enclave.publish_start(listed_secrets=-1)

    def test_labels_are_call_sites(self):
        script = """
        import enclave, json, os, sys
        arena = enclave.Arena("labelled", lock=enclave.Lock.OFF)
        kept = [arena.allocate(1), arena.allocate(1, label="a token")]
        enclave.publish_start()
        print("ready", flush=True)
        sys.stdin.read()
        """
        # (memwatch shows them: Tests/EnclaveCTests/BindingTests.swift.)
        result = run(script, input=b"")
        self.assertEqual((result.returncode, result.stdout), (0, b"ready\n"), result.stderr)


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


if __name__ == "__main__":
    unittest.main()

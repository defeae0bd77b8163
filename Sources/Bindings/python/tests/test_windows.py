"""Windows: views, buffers, and how windows end."""

import asyncio
import hashlib
import hmac
import pickle
import signal
import threading
import unittest

import enclave

from support import gates, make_arena, run


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

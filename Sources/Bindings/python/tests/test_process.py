"""The process: forks, threads, signals and publishing."""

import os
import signal
import tempfile
import threading
import unittest

import enclave

from support import make_arena, run


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

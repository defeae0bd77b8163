"""A running server, its certificate and key, and clients; shared by `check` and `load`."""

import ctypes
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER = os.environ.get("SERVER", os.path.join(HERE, ".build/debug/server"))
MEMWATCH = os.environ.get("MEMWATCH", os.path.join(HERE, "../../../.build/debug/memwatch"))

KINDS = {
    "ed25519": ["-algorithm", "ed25519"],
    "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
}


def expect(condition, what):
    if not condition:
        sys.exit(f"{os.path.basename(sys.argv[0])}: {what}")


def openssl(*arguments, **options):
    return subprocess.run(
        ["openssl", *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        **options
    ).stdout


class Identity:
    """A new key and its certificate, in files."""

    def __init__(self, kind, folder):
        self.key = os.path.join(folder, f"{kind}.key.pem")
        self.certificate = os.path.join(folder, f"{kind}.certificate.pem")
        openssl("genpkey", *KINDS[kind], "-out", self.key)
        openssl(
            "req", "-x509", "-key", self.key, "-out", self.certificate, "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
        )
        self.client = ssl.create_default_context(cafile=self.certificate)


class Server:
    """`memlock` sets RLIMIT_MEMLOCK in bytes and drops CAP_IPC_LOCK, which would bypass it."""

    def __init__(self, identity, folder, *more, memlock=None, **environment):
        os.makedirs(folder, 0o700, exist_ok=True)
        self.client = identity.client
        self.folder = folder
        self.log = open(os.path.join(folder, "log"), "w+b")
        environment = dict(
            os.environ, ENCLAVE_STATS_DIR=folder, SWIFT_BACKTRACE="enable=no", **environment
        )
        libc = ctypes.CDLL(None)

        def limit():
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            if memlock is not None:
                # PR_CAPBSET_DROP, CAP_IPC_LOCK; only root has it.
                libc.prctl(24, 14, 0, 0, 0)
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (memlock, memlock))

        self.process = subprocess.Popen(
            [SERVER, identity.certificate, identity.key, *more], stdout=self.log, stderr=self.log,
            env=environment, preexec_fn=limit,
        )
        deadline = time.monotonic() + 120
        while b"serving port " not in self.said():
            expect(self.process.poll() is None, f"the server ended: {self.said()}")
            expect(time.monotonic() < deadline, "the server does not listen")
            time.sleep(0.02)
        self.port = int(self.said().split(b"serving port ")[1].split()[0])

    def said(self):
        with open(self.log.name, "rb") as log:
            return log.read()

    def handshake(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain:
            with self.client.wrap_socket(plain, server_hostname="localhost") as connection:
                return connection.version()

    def ask(self, path, token=None):
        request = urllib.request.Request(f"https://localhost:{self.port}/{path}")
        if token is not None:
            request.add_header("Authorization", "Bearer " + token)
        try:
            with urllib.request.urlopen(request, timeout=60, context=self.client) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code

    def memwatch(self, *arguments):
        """Runs memwatch on the server; None if memwatch is not built."""
        if not os.path.exists(MEMWATCH):
            return None
        return subprocess.run(
            [MEMWATCH, arguments[0], str(self.process.pid), *arguments[1:]],
            env=dict(os.environ, ENCLAVE_STATS_DIR=self.folder),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        expect(self.process.wait(60) == 0, f"the server ended with {self.process.returncode}")
        expect(b"stopped" in self.said(), f"the server did not stop gracefully: {self.said()}")

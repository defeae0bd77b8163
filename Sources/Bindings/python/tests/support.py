"""Shared by the tests of the package: python3 -m unittest discover -s tests, or pytest."""

import os
import subprocess
import sys
import textwrap

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

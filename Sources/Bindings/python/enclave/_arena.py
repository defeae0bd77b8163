"""Arenas: named pages with one set of properties."""

import ctypes
import enum
import functools
import io
import os
import stat
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Callable, List, Optional

from . import _library as c
from ._errors import EndOfInputError, Status
from ._secret import Secret, _close_ended, _Process, call_site
from ._violation import Violation, violation_of


class Layout(enum.IntEnum):
    SLAB = 0
    """Many secrets per page, with a canary behind each."""
    ISOLATED = 1
    """Separate pages for each secret, with its data against a guard page."""


class Lock(enum.IntEnum):
    REQUIRED = 0
    """Allocating fails if the memory cannot be locked."""
    PREFERRED = 1
    """Unlocked memory is used, and shown as partial or unlocked."""
    OFF = 2


class Gate(enum.IntEnum):
    AUTOMATIC = 0
    """A protection key if available, otherwise pages."""
    KEY = 1
    """A window opens the arena for its own thread, without a system call."""
    PAGES = 2
    """A window opens a secret's pages for every thread: mprotect(2)."""
    NONE = 3
    """Always readable and writable."""
    CIPHER = 4
    """Contents are encrypted at rest; a window is its thread's locked copy."""


@dataclass(frozen=True)
class Statistics:
    """An arena's current counts; see enclave.h."""

    secret_count: int
    bytes_in_use: int
    bytes_mapped: int
    bytes_locked: int
    idle_bytes: int
    open_windows: int
    abandoned_windows: int
    separate_pages: int
    merged_pages: int
    stuck_open_pages: int
    failed_locks: int
    failed_opens: int
    failed_allocations: int
    corruptions: int
    retired_slots: int
    is_frozen: bool
    is_sealed: bool
    protection_key: Optional[int]


_OWN_KEY, _SECRET_MEMORY, _TAGGED, _KEPT_AT_EXIT, _ENDS_AT_GUARD = 1, 2, 4, 8, 16


class Arena:
    """Memory for secrets: named, locked, guarded, closed while nobody uses it, and wiped.

    Lives while it or one of its secrets is referenced. `destroy`, or the end of a `with arena:` block,
    wipes and unmaps it at once. Every method may be called from any thread.

    memwatch shows `name` and labels to other processes, so they must not be confidential. A secret
    without a label is counted under the file and line of the call.
    """

    __slots__ = ("__del__", "__weakref__", "_forks", "_name", "_pointer")

    def __init__(
        self,
        name: str,
        *,
        layout: Layout = Layout.SLAB,
        lock: Lock = Lock.REQUIRED,
        gate: Gate = Gate.AUTOMATIC,
        capacity: Optional[int] = None,
        own_key: bool = False,
        secret_memory: bool = False,
        tagged: bool = False,
        kept_at_exit: bool = False,
        ends_at_guard: bool = False,
    ) -> None:
        """Creates an arena. Nothing is mapped before the first secret.

        capacity: the maximum number of data bytes that it maps; None: unlimited.
        own_key: a protection key that no other arena shares.
        secret_memory: memfd_secret(2), inaccessible to the kernel itself.
        tagged: memory tags (arm64).
        kept_at_exit: exit does not wipe it.
        ends_at_guard: secrets in separate pages end exactly at the guard page.
        """
        if capacity is not None and capacity <= 0:
            raise ValueError(f"invalid capacity of {capacity} bytes: it must be above 0, or None")
        flags = (
            _OWN_KEY * own_key
            | _SECRET_MEMORY * secret_memory
            | _TAGGED * tagged
            | _KEPT_AT_EXIT * kept_at_exit
            | _ENDS_AT_GUARD * ends_at_guard
        )
        options = c.Options(
            ctypes.sizeof(c.Options), layout, lock, gate, flags, capacity or 0
        )
        self._name = name
        self._forks = _Process.forks
        self._pointer = ctypes.c_void_p()
        self.__del__: Callable[[], object] = functools.partial(c.arena_release, self._pointer)
        c.check(c.arena_create(c.encoded(name), byref(options), byref(self._pointer)))

    @property
    def name(self) -> str:
        return self._name

    # Secrets

    def allocate(self, size: int, *, alignment: int = 0, label: Optional[str] = None) -> Secret:
        """Allocates a zeroed secret. `alignment`: a power of two up to 4096; 0: the arena's default."""
        return self._allocate(size, alignment, label or call_site(1))

    def allocate_random(self, size: int, *, label: Optional[str] = None) -> Secret:
        """Allocates a secret of random bytes from the system: getrandom(2)."""
        secret = self._allocate(size, 0, label or call_site(1))
        secret.fill_random()
        return secret

    def allocate_copying(self, source: c.Buffer, *, label: Optional[str] = None) -> Secret:
        """Allocates a secret with a copy of a bytes-like object, which is unchanged."""
        return self._copy(source, label or call_site(1))

    def allocate_wiping(self, source: Any, *, label: Optional[str] = None) -> Secret:
        """Moves the bytes of a bytearray (or another writable buffer) into a secret.

        The source keeps its length and is zeroed. Earlier copies remain, for example of a bytearray that
        grew. On failure the source is unchanged, but a KeyboardInterrupt at the very end may lose both.
        """
        pointer, size = c.address_of(source)
        secret = self._copy(source, label or call_site(1))
        c.c_wipe(pointer, size)
        return secret

    def read_passphrase(
        self,
        prompt: str = "Passphrase: ",
        *,
        descriptor: Optional[int] = None,
        limit: int = 1024,
        label: Optional[str] = None,
    ) -> Secret:
        """Reads a line without echo directly into a secret; no str is created.

        Reads from the process's terminal (/dev/tty), otherwise from standard input. A descriptor that is
        not a terminal is read up to a newline or its end. Raises EndOfInputError if the line is
        incomplete or longer than `limit` bytes. Ctrl-C restores the echo and raises KeyboardInterrupt.
        """
        if limit <= 0:
            raise ValueError(f"invalid limit of {limit} bytes: it must be above 0")
        site = label or call_site(1)
        if descriptor is not None:
            return self._read_line(prompt, descriptor, limit, site)
        try:
            terminal = io.FileIO("/dev/tty", "r+")
        except OSError:
            return self._read_line(prompt, 0, limit, site)
        with terminal:
            return self._read_line(prompt, terminal.fileno(), limit, site)

    def read_file(
        self, path: "os.PathLike[str] | str", *, limit: int = 1 << 20, label: Optional[str] = None
    ) -> Secret:
        """Reads a file directly into a secret, such as a key or a systemd credential.

        Raises EndOfInputError if it has more than `limit` bytes.
        """
        site = label or call_site(1)
        with io.FileIO(os.fspath(path)) as file:
            status = os.fstat(file.fileno())
            # Files in /proc and pipes report a size of 0.
            expected = status.st_size if stat.S_ISREG(status.st_mode) and status.st_size else limit
            if expected > limit:
                raise _too_long(limit)
            secret = self._allocate(expected + 1, 0, site)
            received = 0
            with secret.write() as view:
                while received < view.nbytes:
                    count = file.readinto(view[received:])
                    if not count:
                        break
                    received += count
            if received > limit:
                raise _too_long(limit)
            if received > expected:
                raise EndOfInputError("the file grew while it was read", Status.END_OF_INPUT)
            secret.resize(received)
            return secret

    # The arena as a whole

    def freeze(self) -> None:
        """Makes the arena write-once: contents can only be read until it is destroyed."""
        c.check(c.arena_freeze(self._pointer))

    def seal(self) -> None:
        """Freezes it, and makes the kernel refuse every change to its mappings until exit: mseal(2)."""
        c.check(c.arena_seal(self._pointer))

    def destroy(self, *, wait: float = 0.0) -> None:
        """Wipes and unmaps it with its secrets. Does nothing if it is destroyed already.

        Waits up to `wait` seconds for open windows, then raises WindowsOpenError.
        """
        if not 0 <= wait <= 4_000_000:
            raise ValueError(f"invalid wait of {wait} s")
        _close_ended()
        status = c.arena_destroy(self._pointer, int(wait * 1000))
        if status != Status.DESTROYED:
            c.check(status)

    def trim(self) -> int:
        """Returns memory that holds no secret to the system; the result is the number of bytes."""
        given = ctypes.c_size_t()
        c.check(c.arena_trim(self._pointer, byref(given)))
        return given.value

    def check(self) -> List[Violation]:
        """Checks every canary and every free slot, and returns the violations. O(memory)."""
        found: List[Violation] = []
        raised: List[BaseException] = []

        def each(violation: Any, context: Any) -> None:
            # ctypes would print an exception and continue.
            try:
                found.append(violation_of(violation.contents))
            except BaseException as error:
                raised.append(error)

        wrong = ctypes.c_size_t()
        c.check(c.arena_check(self._pointer, c.EACH(each), None, byref(wrong)))
        if raised:
            raise raised[0]
        if len(found) != wrong.value:
            raise RuntimeError(
                f"{wrong.value} violations, of which {wrong.value - len(found)} are not told: an "
                "exception came as a callback began (see standard error); check again"
            )
        return found

    @property
    def statistics(self) -> Statistics:
        """The current counts."""
        filled = c.CStatistics(ctypes.sizeof(c.CStatistics))
        c.check(c.arena_statistics(self._pointer, byref(filled)))
        names = [name for name, *_ in c.CStatistics._fields_ if name != "struct_size"]
        counts = {name: getattr(filled, name) for name in names}
        if counts["protection_key"] < 0:
            counts["protection_key"] = None
        return Statistics(**counts)

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *ignored: object) -> None:
        # A forked child has nothing to destroy.
        if self._forks == _Process.forks:
            self.destroy()

    def __repr__(self) -> str:
        return f"<Arena {self._name!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("arenas cannot be pickled or copied")

    def _allocate(self, size: int, alignment: int, label: str) -> Secret:
        if size < 0 or alignment < 0:
            raise ValueError(f"{size} bytes aligned to {alignment}: neither may be negative")
        secret = Secret(self)
        handle = byref(secret._handle)
        c.check(c.secret_allocate(self._pointer, size, alignment, c.encoded(label), handle))
        return secret

    def _read_line(self, prompt: str, descriptor: int, limit: int, label: str) -> Secret:
        text, site = c.encoded(prompt), c.encoded(label)
        secret = Secret(self)
        handle = byref(secret._handle)
        c.check(c.read_passphrase(self._pointer, text, descriptor, limit, site, handle))
        return secret

    def _copy(self, source: c.Buffer, label: str) -> Secret:
        with memoryview(source) as any_view, any_view.cast("B") as view:
            secret = self._allocate(view.nbytes, 0, label)
            if view.nbytes:
                with secret.write() as own:
                    own[:] = view
        return secret


def _too_long(limit: int) -> EndOfInputError:
    return EndOfInputError(f"the file has more than {limit} bytes", Status.END_OF_INPUT)

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
    """Many secrets a page, a canary behind each."""
    ISOLATED = 1
    """Pages of its own for each, the data against a guard page."""


class Lock(enum.IntEnum):
    REQUIRED = 0
    """Allocating fails rather than use memory that is not locked."""
    PREFERRED = 1
    """It goes on, and is shown as partial or unlocked."""
    OFF = 2


class Gate(enum.IntEnum):
    AUTOMATIC = 0
    """A protection key, else pages."""
    KEY = 1
    """A window opens the arena for its own thread, without a system call."""
    PAGES = 2
    """A window opens a secret's pages for every thread: mprotect(2)."""
    NONE = 3
    """Always open."""
    CIPHER = 4
    """Contents rest encrypted; a window is a locked copy of its thread's own."""


@dataclass(frozen=True)
class Statistics:
    """An arena's counts of now; see enclave.h."""

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

    Lives while somebody holds it or a secret of it. `destroy`, or the end of a `with arena:` block,
    wipes and unmaps it at once. Every method may be called from any thread.

    `name` and labels are shown by memwatch, to other processes: never what should not be seen. A
    secret without a label is counted under the file and line of the call.
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
        """Makes an arena; it maps nothing until the first secret.

        capacity: the most data bytes that it maps; None: no limit of its own.
        own_key: a protection key that no other arena has.
        secret_memory: memfd_secret(2), unreachable for the kernel itself.
        tagged: memory tags (arm64).
        kept_at_exit: not wiped by exit.
        ends_at_guard: in pages of its own, a secret ends at the guard page at every size.
        """
        if capacity is not None and capacity <= 0:
            raise ValueError(f"a capacity of {capacity} bytes: it is above 0, or None")
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
        """A secret of zeros; `alignment` is a power of two up to 4096, 0: the arena's own."""
        return self._allocate(size, alignment, label or call_site(1))

    def allocate_random(self, size: int, *, label: Optional[str] = None) -> Secret:
        """A secret of the system's randomness: getrandom(2)."""
        secret = self._allocate(size, 0, label or call_site(1))
        secret.fill_random()
        return secret

    def allocate_copying(self, source: c.Buffer, *, label: Optional[str] = None) -> Secret:
        """A secret of the bytes of a bytes-like object, which stays as it is."""
        return self._copy(source, label or call_site(1))

    def allocate_wiping(self, source: Any, *, label: Optional[str] = None) -> Secret:
        """A secret of the bytes of a bytearray (or what else is writable), which is wiped.

        It keeps its length, as zeros. Copies that were made before stay: a bytearray that grew has left
        some. Where this raises, the source is as it was; but where Ctrl-C comes last, both may be gone.
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
        """A line that is typed without echo, straight into a secret: no str of it is made.

        From the process' terminal (/dev/tty), else from standard input. What is no terminal is
        read up to a newline, or its end. Raises EndOfInputError without a whole line, or where it is
        longer than `limit` bytes. Ctrl-C raises KeyboardInterrupt as ever, with the echo restored.
        """
        if limit <= 0:
            raise ValueError(f"a limit of {limit} bytes: it is above 0")
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
        """A file's bytes, read straight into a secret: a key, a systemd credential.

        Raises EndOfInputError where it has more than `limit` bytes.
        """
        site = label or call_site(1)
        with io.FileIO(os.fspath(path)) as file:
            status = os.fstat(file.fileno())
            # (The size of what is in /proc, and of pipes, is 0.)
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
        """Write-once: from now on contents can only be read, until it is destroyed."""
        c.check(c.arena_freeze(self._pointer))

    def seal(self) -> None:
        """Freezes it, and has the kernel refuse every change to the mapping until exit: mseal(2)."""
        c.check(c.arena_seal(self._pointer))

    def destroy(self, *, wait: float = 0.0) -> None:
        """Wipes and unmaps it; its secrets are gone. Nothing happens where it is destroyed already.

        Waits up to so many seconds for windows that are open; then WindowsOpenError.
        """
        if not 0 <= wait <= 4_000_000:
            raise ValueError(f"a wait of {wait} s")
        _close_ended()
        status = c.arena_destroy(self._pointer, int(wait * 1000))
        if status != Status.DESTROYED:
            c.check(status)

    def trim(self) -> int:
        """Gives memory that holds no secret back to the system: so many bytes."""
        given = ctypes.c_size_t()
        c.check(c.arena_trim(self._pointer, byref(given)))
        return given.value

    def check(self) -> List[Violation]:
        """Looks at every canary and every free slot; what is wrong. O(memory)."""
        found: List[Violation] = []
        raised: List[BaseException] = []

        def each(violation: Any, context: Any) -> None:
            # ctypes prints what a callback raises, and goes on.
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
        """The counts of now."""
        told = c.CStatistics(ctypes.sizeof(c.CStatistics))
        c.check(c.arena_statistics(self._pointer, byref(told)))
        names = [name for name, *_ in c.CStatistics._fields_ if name != "struct_size"]
        counts = {name: getattr(told, name) for name in names}
        if counts["protection_key"] < 0:
            counts["protection_key"] = None
        return Statistics(**counts)

    def __enter__(self) -> "Arena":
        return self

    def __exit__(self, *ignored: object) -> None:
        # In a forked child there is nothing to destroy.
        if self._forks == _Process.forks:
            self.destroy()

    def __repr__(self) -> str:
        return f"<Arena {self._name!r}>"

    def __reduce__(self) -> Any:
        raise TypeError("an arena is never pickled, nor copied")

    def _allocate(self, size: int, alignment: int, label: str) -> Secret:
        if size < 0 or alignment < 0:
            raise ValueError(f"{size} bytes aligned to {alignment}: neither is below 0")
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

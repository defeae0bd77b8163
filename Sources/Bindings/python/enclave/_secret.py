"""Secrets, and windows to them."""

import gc
import hmac
import os
import sys
import threading
from ctypes import byref
from types import TracebackType
from typing import TYPE_CHECKING, ContextManager, List, NoReturn, Optional, Tuple, Type, Union

from . import _library as c
from ._errors import DestroyedError, Status, WindowOrderError, WindowsOpenError

if TYPE_CHECKING:
    from ._arena import Arena

_READ, _READ_WRITE = 0, 1
_BUFFER_READ, _BUFFER_WRITE = 0x100, 0x200  # PyBUF_READ, PyBUF_WRITE


class _Process:
    """Counts forks: another thread of the parent may have held a lock that the child copied."""

    forks = 0


def _forked() -> None:
    _Process.forks += 1


os.register_at_fork(after_in_child=_forked)


class _Thread(threading.local):
    """The windows that this thread has open, the latest last."""

    def __init__(self) -> None:
        self.windows: List["Window"] = []


_thread = _Thread()

# Secrets whose window only a thread that has ended could have closed: never freed, wiped at exit.
_abandoned: List["Secret"] = []


def _count_references() -> int:
    """What getrefcount says of the memory of a view that has no slices; it depends on the version."""
    view = memoryview(bytearray(1))
    (memory,) = gc.get_referents(view)
    released = _release(view)
    assert released
    return sys.getrefcount(memory)


class Window:
    """The time in which this thread has a secret open; made by `Secret.read` and `Secret.write`.

    Good for one `with` block.
    """

    __slots__ = ("_access", "_is_closed", "_is_ended", "_is_opened", "_secret", "_view", "_window")

    def __init__(self, secret: "Secret", access: int) -> None:
        self._secret = secret
        self._access = access
        self._window = c.CWindow()
        self._view: Optional[memoryview] = None
        self._is_opened = False  # by the library
        self._is_ended = False  # the block
        self._is_closed = False  # by the library

    def __enter__(self) -> memoryview:
        if self._is_opened:
            raise RuntimeError("a window is good for one with block: call read() or write() again")
        size = self._secret._open(self)
        writing = self._access == _READ_WRITE
        view: memoryview = c.view_of_memory(
            self._window.bytes, size, _BUFFER_WRITE if writing else _BUFFER_READ
        )
        self._view = view
        _thread.windows.append(self)
        return view

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        is_exported = self._release_views()
        self._is_ended = True
        windows = _thread.windows
        # Of another thread's window closing says whose it is.
        status = 0 if self in windows else self._close()
        while windows and windows[-1]._is_ended:
            window = windows.pop()
            closed = window._close()
            if window is self:
                status = closed
        if kind is not None:
            return
        c.check(status)
        if not self._is_closed:
            raise WindowOrderError(
                "a window ends while one that this thread opened later is open: it closes together "
                "with that one; do not await or yield in a window",
                Status.WINDOWS_OPEN,
            )
        if is_exported:
            raise BufferError(
                "the window has ended, and something still has a buffer of its view: touching that "
                "may end the process; make copies, or drop it before the block ends"
            )

    def _release_views(self) -> bool:
        """Releases the view and all slices of it; whether something has exported one of them."""
        view = self._view
        if view is None:
            return False
        self._view = None
        (memory,) = gc.get_referents(view)
        is_exported = not _release(view)
        # More references than of a view alone are slices; those are looked for.
        if sys.getrefcount(memory) > _references_of_one_view:
            for other in gc.get_referrers(memory):
                if isinstance(other, memoryview):
                    is_exported = not _release(other) or is_exported
        return is_exported

    def _close(self) -> int:
        if self._is_closed or not self._is_opened:
            return 0
        status: int = c.close(byref(self._window))
        if status != Status.THREAD:
            self._is_closed = True
            self._secret._windows.pop()
        return status

    def __del__(self) -> None:
        # An exception (Ctrl-C) came between opening and the block, or nobody ended the block.
        if self._is_opened and not self._is_closed and self._close() == Status.THREAD:
            _abandoned.append(self._secret)


def _release(view: memoryview) -> bool:
    try:
        view.release()
        return True
    except BufferError:
        return False


class Secret:
    """One allocation in an arena. Its bytes are reached in a window:

        with secret.read() as view: ...
        with secret.write() as view: ...

    Wiped and freed by `destroy`, where a `with secret:` block ends, or when the last reference goes.
    Threads may share it: any number may read at a time.
    """

    __slots__ = ("__weakref__", "_arena", "_forks", "_lock", "_place", "_windows")

    def __init__(self, arena: "Arena", handle: c.CSecret, size: int) -> None:
        """Secrets are made by `Arena.allocate` and its like."""
        self._arena = arena  # it lives as long as its secrets
        # Together, since other threads may open it while one resizes it.
        self._place: Optional[Tuple[c.CSecret, int]] = (handle, size)
        self._windows: List[None] = []  # so many are open; a list, since threads may change it
        # Of one thread, too: a handler of a signal may come at any time.
        self._lock = threading.RLock()
        self._forks = _Process.forks

    @property
    def size(self) -> int:
        """In bytes."""
        return self._found()[1]

    def __len__(self) -> int:
        return self.size

    @property
    def is_alive(self) -> bool:
        """Whether neither it nor its arena was destroyed, and this is no forked child."""
        place = self._place
        if place is None or self._forks != _Process.forks:
            return False
        return c.secret_address(byref(place[0])) is not None

    def read(self) -> Window:
        """A window for reading: `with secret.read() as view`, a read-only memoryview."""
        return Window(self, _READ)

    def write(self) -> Window:
        """A window for reading and writing: `with secret.write() as view`."""
        return Window(self, _READ_WRITE)

    def fill_random(self) -> None:
        """Fills it from the system's randomness."""
        window = self.write()
        with window as view:
            c.check(c.fill_random(window._window.bytes, view.nbytes))

    def equals(self, other: Union["Secret", c.Buffer]) -> bool:
        """Whether the bytes are the same, in a time that depends on their number alone."""
        with self.read() as mine:
            if isinstance(other, Secret):
                with other.read() as theirs:
                    return hmac.compare_digest(mine, theirs)
            return hmac.compare_digest(mine, other)

    def copy_into(self, arena: "Arena", *, label: Optional[str] = None) -> "Secret":
        """A secret of the same bytes in another arena, or the same."""
        with self.read() as view:
            return arena.allocate_copying(view, label=label)

    def resize(self, size: int) -> None:
        """Makes it larger or smaller: new bytes are zeros, bytes that go are wiped."""
        with self._lock_of_this_process():
            handle, _ = self._found()
            # A copy: who opens it meanwhile has the old one, which is stale then.
            changed = c.CSecret.from_buffer_copy(handle)
            c.check(c.secret_resize(byref(changed), size))
            self._place = (changed, size)

    def destroy(self) -> None:
        """Wipes and frees it. Nothing happens where it, or its arena, is destroyed already.

        Raises WindowsOpenError while a window to it is open anywhere.
        """
        with self._lock_of_this_process():
            if self._place is None:
                return
            if self._windows and self._forks == _Process.forks:
                raise WindowsOpenError(
                    f"{len(self._windows)} windows to the secret are open: end them first",
                    Status.WINDOWS_OPEN,
                )
            status = c.secret_free(byref(self._place[0]))
            if status != Status.DESTROYED:
                c.check(status)
            self._place = None

    def __enter__(self) -> "Secret":
        return self

    def __exit__(self, *ignored: object) -> None:
        # In a forked child there is nothing to destroy.
        if self._forks == _Process.forks:
            self.destroy()

    def __repr__(self) -> str:
        place = self._place
        return "<Secret, destroyed>" if place is None else f"<Secret of {place[1]} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled, nor copied")

    def __del__(self) -> None:
        # Its windows hold it, so none is open. (Without __init__ there is nothing to free.)
        place = getattr(self, "_place", None)
        if place is not None:
            c.secret_free(byref(place[0]))

    def _found(self) -> Tuple[c.CSecret, int]:
        place = self._place
        if place is None:
            raise DestroyedError("the secret was destroyed", Status.DESTROYED)
        return place

    def _lock_of_this_process(self) -> ContextManager[object]:
        # In a forked child every call of the library fails before it does anything.
        return self._lock if self._forks == _Process.forks else threading.RLock()

    def _open(self, window: Window) -> int:
        """Opens a window; the secret's size. Nobody destroys it meanwhile."""
        with self._lock_of_this_process():
            handle, size = self._found()
            window._is_opened = True
            self._windows.append(None)
            status: int = c.secret_open(
                byref(handle), window._access, byref(window._window), None
            )
            if status:
                error = c.failure(status)
                window._close()
                raise error
            return size


_references_of_one_view = _count_references()

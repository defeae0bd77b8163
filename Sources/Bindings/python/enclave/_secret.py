"""Secrets, and windows to them.

Ctrl-C may come between any two bytecodes. So what the library makes is owned before it is made: the
object comes first, and the call fills it in. What frees it stands in a slot named `__del__`: C calls
that, and nothing comes in between.
"""

import functools
import gc
import hmac
import os
import sys
import threading
import weakref
from ctypes import byref
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Callable, ContextManager, Dict, List, NoReturn, Optional
from typing import Type, Union

from . import _library as c
from ._errors import DestroyedError, Status, WindowOrderError, WindowsOpenError

if TYPE_CHECKING:
    from ._arena import Arena

_READ, _READ_WRITE = 0, 1
_BUFFER_READ, _BUFFER_WRITE = 0x100, 0x200  # PyBUF_READ, PyBUF_WRITE

# What a `__del__` is when there is nothing left to do.
_nothing: Callable[[], object] = int


class _Process:
    """Counts forks: another thread of the parent may have held a lock that the child copied."""

    forks = 0


def _forked() -> None:
    _Process.forks += 1


os.register_at_fork(after_in_child=_forked)


class _Thread(threading.local):
    """The windows that this thread has open, the latest last."""

    def __init__(self) -> None:
        self.windows: List["_Opened"] = []


_thread = _Thread()

# Secrets whose window only a thread that has ended could have closed: never freed, wiped at exit.
_abandoned: List["Secret"] = []


def call_site(depth: int) -> str:
    """The file and line that called, so many frames above the caller."""
    frame: FrameType = sys._getframe(depth + 1)
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _count_references() -> int:
    """What getrefcount says of the memory of a view that has no slices; it depends on the version."""
    view = memoryview(bytearray(1))
    (memory,) = gc.get_referents(view)
    released = _release(view)
    assert released
    return sys.getrefcount(memory)


class _Opened:
    """What a window has open. The thread's list holds it until it is closed, whatever becomes of the
    Window. Closing it twice is fine: Ctrl-C may have come between the call and what notes it."""

    __slots__ = ("__del__", "is_ended", "owner", "secret", "state", "status", "view")

    def __init__(self, owner: "Window") -> None:
        self.owner = weakref.ref(owner)
        self.secret = owner._secret
        self.state = c.CWindow()
        self.view: Optional[memoryview] = None
        self.is_ended = False  # the block
        self.status: Optional[int] = None  # what closing it said
        # The list goes with its thread.
        self.__del__: Callable[[], object] = functools.partial(
            _close_late, self.state, self.secret
        )

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.owner() is None

    def open(self, access: int) -> memoryview:
        """Nobody destroys the secret meanwhile."""
        secret = self.secret
        with secret._lock_of_this_process():
            secret._require()
            _thread.windows.append(self)
            secret._windows[id(self.state)] = self.state
            c.check(c.secret_open(byref(secret._handle), access, byref(self.state), None))
            view: memoryview = c.view_of_memory(
                self.state.bytes,
                c.secret_size(byref(secret._handle)),
                _BUFFER_WRITE if access == _READ_WRITE else _BUFFER_READ,
            )
            self.view = view
            return view

    def close(self) -> int:
        status: int = c.close(byref(self.state))
        if status != Status.THREAD:
            self.status = status
            self.secret._windows.pop(id(self.state), None)
            self.__del__ = _nothing
        return status

    def release_views(self) -> bool:
        """Releases the view and all slices of it; whether something has exported one of them."""
        view = self.view
        if view is None:
            return False
        (memory,) = gc.get_referents(view)
        is_exported = not _release(view)
        # More references than of a view alone are slices; those are looked for.
        if sys.getrefcount(memory) > _references_of_one_view:
            for other in gc.get_referrers(memory):
                if isinstance(other, memoryview):
                    is_exported = not _release(other) or is_exported
        self.view = None
        return is_exported


def _close_ended() -> None:
    """Closes this thread's windows that are over, the latest first, up to one that is not."""
    windows = _thread.windows
    while windows and windows[-1].is_over:
        last = windows[-1]
        last.release_views()
        last.close()
        try:
            windows.remove(last)
        except ValueError:
            pass  # a handler of a signal, or the collector, came to it first


def _end(opened: _Opened) -> None:
    opened.release_views()
    opened.is_ended = True
    _close_ended()


def _close_late(state: c.CWindow, secret: "Secret") -> None:
    if c.close(byref(state)) == Status.THREAD:
        secret.__del__ = _nothing  # freeing it would be a violation
        _abandoned.append(secret)
    else:
        secret._windows.pop(id(state), None)


class Window:
    """The time in which this thread has a secret open; made by `Secret.read` and `Secret.write`.

    Good for one `with` block. A window that nobody holds any more ends, and its view with it.
    """

    __slots__ = ("__del__", "__weakref__", "_access", "_opened", "_secret")

    def __init__(self, secret: "Secret", access: int) -> None:
        self._secret = secret
        self._access = access
        self._opened: Optional[_Opened] = None

    def __enter__(self) -> memoryview:
        if self._opened is not None:
            raise RuntimeError("a window is good for one with block: call read() or write() again")
        _close_ended()
        self._opened = opened = _Opened(self)
        self.__del__: Callable[[], object] = functools.partial(_end, opened)
        try:
            return opened.open(self._access)
        except BaseException:
            _end(opened)
            raise

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        opened = self._opened
        if opened is None:
            raise RuntimeError("the window was never opened")
        try:
            is_exported = opened.release_views()
            opened.is_ended = True
            if opened in _thread.windows:
                _close_ended()
                status = opened.status
            else:
                # Of another thread's window closing says whose it is.
                status = opened.close()
            if opened.status is not None:
                self.__del__ = _nothing
        except BaseException:
            _end(opened)
            raise
        if kind is not None:
            return
        if status is None:
            raise WindowOrderError(
                "a window ends while one that this thread opened later is open: it closes together "
                "with that one; do not await or yield in a window",
                Status.WINDOWS_OPEN,
            )
        c.check(status)
        if is_exported:
            raise BufferError(
                "the window has ended, and something still has a buffer of its view: touching that "
                "may end the process; make copies, or drop it before the block ends"
            )


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

    __slots__ = (
        "__del__",
        "__weakref__",
        "_arena",
        "_forks",
        "_handle",
        "_is_destroyed",
        "_lock",
        "_size",
        "_windows",
    )

    def __init__(self, arena: "Arena") -> None:
        """Secrets are made by `Arena.allocate` and its like, which fill in the handle."""
        self._arena = arena  # it lives as long as its secrets
        self._handle = c.CSecret()
        self._size = 0  # as it was last known
        self._is_destroyed = False
        self._windows: Dict[int, c.CWindow] = {}  # those that may be open
        # Of one thread, too: a handler of a signal may come at any time.
        self._lock = threading.RLock()
        self._forks = _Process.forks
        # (Its windows hold it, so none is open.)
        self.__del__: Callable[[], object] = functools.partial(c.secret_free, byref(self._handle))

    @property
    def size(self) -> int:
        """In bytes."""
        with self._lock_of_this_process():
            self._require()
            if self.is_alive:
                self._size = c.secret_size(byref(self._handle))
            return self._size

    def __len__(self) -> int:
        return self.size

    @property
    def is_alive(self) -> bool:
        """Whether neither it nor its arena was destroyed, and this is no forked child."""
        if self._forks != _Process.forks:
            return False
        with self._lock_of_this_process():
            return c.secret_address(byref(self._handle)) is not None

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
            assert window._opened is not None
            c.check(c.fill_random(window._opened.state.bytes, view.nbytes))

    def equals(self, other: Union["Secret", c.Buffer]) -> bool:
        """Whether the bytes are the same, in a time that depends on their number alone."""
        with self.read() as mine:
            if isinstance(other, Secret):
                with other.read() as theirs:
                    return hmac.compare_digest(mine, theirs)
            return hmac.compare_digest(mine, other)

    def copy_into(self, arena: "Arena", *, label: Optional[str] = None) -> "Secret":
        """A secret of the same bytes in another arena, or the same."""
        site = label or call_site(1)
        with self.read() as view:
            return arena.allocate_copying(view, label=site)

    def resize(self, size: int) -> None:
        """Makes it larger or smaller: new bytes are zeros, bytes that go are wiped."""
        with self._lock_of_this_process():
            self._require()
            c.check(c.secret_resize(byref(self._handle), size))

    def destroy(self) -> None:
        """Wipes and frees it. Nothing happens where it, or its arena, is destroyed already.

        Raises WindowsOpenError while a window to it is open anywhere.
        """
        with self._lock_of_this_process():
            if self._is_destroyed:
                return
            _close_ended()
            if self._windows and self._forks == _Process.forks:
                raise WindowsOpenError(
                    f"{len(self._windows)} windows to the secret are open: end them first",
                    Status.WINDOWS_OPEN,
                )
            status = c.secret_free(byref(self._handle))
            if status != Status.DESTROYED:
                c.check(status)
            self._is_destroyed = True
            self.__del__ = _nothing

    def __enter__(self) -> "Secret":
        return self

    def __exit__(self, *ignored: object) -> None:
        # In a forked child there is nothing to destroy.
        if self._forks == _Process.forks:
            self.destroy()

    def __repr__(self) -> str:
        return "<Secret, destroyed>" if self._is_destroyed else f"<Secret of {self.size} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never pickled, nor copied")

    def _require(self) -> None:
        if self._is_destroyed:
            raise DestroyedError("the secret was destroyed", Status.DESTROYED)

    def _lock_of_this_process(self) -> ContextManager[object]:
        # In a forked child every call of the library fails before it does anything.
        return self._lock if self._forks == _Process.forks else threading.RLock()


_references_of_one_view = _count_references()

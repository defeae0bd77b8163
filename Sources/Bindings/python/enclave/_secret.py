"""Secrets, and windows to them.

KeyboardInterrupt may be raised between any two bytecodes. So that nothing leaks, the owning object is
created first, and the library's call fills it in. The function that frees the resource is stored in a
slot named `__del__`: CPython calls it directly, and no bytecode runs in between.
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

# A `__del__` that does nothing.
_nothing: Callable[[], object] = int


class _Process:
    """Counts forks, because a child may have copied a lock that another thread of its parent held."""

    forks = 0


def _forked() -> None:
    _Process.forks += 1


os.register_at_fork(after_in_child=_forked)


class _Thread(threading.local):
    """This thread's open windows, the latest last."""

    def __init__(self) -> None:
        self.windows: List["_Opened"] = []


_thread = _Thread()

# Secrets with an open window whose thread has ended: never freed, wiped at exit.
_abandoned: List["Secret"] = []


def call_site(depth: int) -> str:
    """The file and line `depth` frames above the caller."""
    frame: FrameType = sys._getframe(depth + 1)
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def _count_references() -> int:
    """sys.getrefcount of the memory of a view without slices; it depends on Python's version."""
    view = memoryview(bytearray(1))
    (memory,) = gc.get_referents(view)
    released = _release(view)
    assert released
    return sys.getrefcount(memory)


class _Opened:
    """An open window's state. The thread's list holds it until it is closed, even if the Window is
    dropped. Closing twice is harmless: KeyboardInterrupt may come before the first is recorded."""

    __slots__ = ("__del__", "is_ended", "owner", "secret", "state", "status", "view")

    def __init__(self, owner: "Window") -> None:
        self.owner = weakref.ref(owner)
        self.secret = owner._secret
        self.state = c.CWindow()
        self.view: Optional[memoryview] = None
        self.is_ended = False  # whether the with block ended
        self.status: Optional[int] = None  # the result of closing it
        # Runs if the thread ends first, and its list with it.
        self.__del__: Callable[[], object] = functools.partial(
            _close_late, self.state, self.secret
        )

    @property
    def is_over(self) -> bool:
        return self.is_ended or self.owner() is None

    def open(self, access: int) -> memoryview:
        """Opens the window under the secret's lock, so that no thread destroys it meanwhile."""
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
        """Releases the view and its slices. Returns whether one of them is exported and still usable."""
        view = self.view
        if view is None:
            return False
        (memory,) = gc.get_referents(view)
        is_exported = not _release(view)
        # More references than those of a lone view mean that there are slices: find them.
        if sys.getrefcount(memory) > _references_of_one_view:
            for other in gc.get_referrers(memory):
                if isinstance(other, memoryview):
                    is_exported = not _release(other) or is_exported
        self.view = None
        return is_exported


def _close_ended() -> None:
    """Closes this thread's ended windows, latest first, up to the first that is still in use."""
    windows = _thread.windows
    while windows and windows[-1].is_over:
        last = windows[-1]
        last.release_views()
        last.close()
        try:
            windows.remove(last)
        except ValueError:
            pass  # a signal handler or the collector removed it first


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
    """The time in which this thread has a secret open; created by `Secret.read` and `Secret.write`.

    Valid for one `with` block. A window that is no longer referenced ends, and its view with it.
    """

    __slots__ = ("__del__", "__weakref__", "_access", "_opened", "_secret")

    def __init__(self, secret: "Secret", access: int) -> None:
        self._secret = secret
        self._access = access
        self._opened: Optional[_Opened] = None

    def __enter__(self) -> memoryview:
        if self._opened is not None:
            raise RuntimeError("a window can be used by one with block only: call read() or write() again")
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
                # If the window belongs to another thread, this returns Status.THREAD.
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
                "the window has ended, but something still has a buffer of its view: using it "
                "may end the process; copy the data, or release the buffer before the block ends"
            )


def _release(view: memoryview) -> bool:
    try:
        view.release()
        return True
    except BufferError:
        return False


class Secret:
    """One allocation in an arena. Its bytes are accessible in a window:

        with secret.read() as view: ...
        with secret.write() as view: ...

    Wiped and freed by `destroy`, at the end of a `with secret:` block, or when the last reference is
    dropped. Threads may share it, and any number may read at the same time.
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
        """Only for `Arena.allocate` and similar methods, which fill in the handle."""
        self._arena = arena  # keeps the arena alive
        self._handle = c.CSecret()
        self._size = 0  # the last known size
        self._is_destroyed = False
        self._windows: Dict[int, c.CWindow] = {}  # those that may be open
        # Reentrant: a signal handler may run at any time in the same thread.
        self._lock = threading.RLock()
        self._forks = _Process.forks
        # (No window is open then, because windows hold the secret.)
        self.__del__: Callable[[], object] = functools.partial(c.secret_free, byref(self._handle))

    @property
    def size(self) -> int:
        """The size in bytes."""
        with self._lock_of_this_process():
            self._require()
            if self.is_alive:
                self._size = c.secret_size(byref(self._handle))
            return self._size

    def __len__(self) -> int:
        return self.size

    @property
    def is_alive(self) -> bool:
        """False if it or its arena was destroyed, and in a forked child."""
        if self._forks != _Process.forks:
            return False
        with self._lock_of_this_process():
            return c.secret_address(byref(self._handle)) is not None

    def read(self) -> Window:
        """A window for reading: `with secret.read() as view` gives a read-only memoryview."""
        return Window(self, _READ)

    def write(self) -> Window:
        """A window for reading and writing: `with secret.write() as view`."""
        return Window(self, _READ_WRITE)

    def fill_random(self) -> None:
        """Fills it with random bytes from the system."""
        window = self.write()
        with window as view:
            assert window._opened is not None
            c.check(c.fill_random(window._opened.state.bytes, view.nbytes))

    def equals(self, other: Union["Secret", c.Buffer]) -> bool:
        """Compares the bytes in a time that depends only on their number."""
        with self.read() as mine:
            if isinstance(other, Secret):
                with other.read() as theirs:
                    return hmac.compare_digest(mine, theirs)
            return hmac.compare_digest(mine, other)

    def copy_into(self, arena: "Arena", *, label: Optional[str] = None) -> "Secret":
        """Copies the bytes to a new secret in any arena."""
        site = label or call_site(1)
        with self.read() as view:
            return arena.allocate_copying(view, label=site)

    def resize(self, size: int) -> None:
        """Changes the size. New bytes are zeros; removed bytes are wiped."""
        with self._lock_of_this_process():
            self._require()
            c.check(c.secret_resize(byref(self._handle), size))

    def destroy(self) -> None:
        """Wipes and frees it. Does nothing if it or its arena is destroyed already.

        Raises WindowsOpenError while any thread has a window to it open.
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
        # A forked child has nothing to destroy.
        if self._forks == _Process.forks:
            self.destroy()

    def __repr__(self) -> str:
        return "<Secret, destroyed>" if self._is_destroyed else f"<Secret of {self.size} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets cannot be pickled or copied")

    def _require(self) -> None:
        if self._is_destroyed:
            raise DestroyedError("the secret was destroyed", Status.DESTROYED)

    def _lock_of_this_process(self) -> ContextManager[object]:
        # A forked child needs no lock: the library refuses every call.
        return self._lock if self._forks == _Process.forks else threading.RLock()


_references_of_one_view = _count_references()

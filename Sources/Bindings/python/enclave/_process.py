"""Process-wide functions: wiping, violations, publishing."""

import atexit
import ctypes
import enum
from typing import Any, Callable, List, Optional

from . import _library as c
from ._errors import Status
from ._violation import Violation, violation_of


class Capability(enum.IntEnum):
    """Mechanisms that a machine or a process may have; see enclave.h."""

    PROTECTION_KEYS = 1
    SEALS = 2
    SECRET_MEMORY = 3
    GUARD_MARKERS = 4
    WIPE_ON_FORK = 5
    MEMORY_TAGGING = 6
    THREADS_START_CLOSED = 7
    INTERPOSER = 8


def probe(capability: Capability) -> None:
    """Raises UnsupportedError with the reason if it is missing. Asks the kernel each time."""
    c.check(c.c_probe(capability))


def is_available(capability: Capability) -> bool:
    """Whether the machine or process has it. Asks the kernel each time."""
    status = c.c_probe(capability)
    if status not in (Status.OK, Status.UNSUPPORTED, Status.NO_INTERPOSER):
        raise c.failure(status)
    return bool(status == Status.OK)


def wipe(buffer: Any) -> None:
    """Zeros a bytearray or another writable buffer."""
    c.c_wipe(*c.address_of(buffer))


def wipe_everything() -> None:
    """Wipes every arena of the process at once. Every later use of one raises DestroyedError.

    Raises SystemCallError naming what could not be wiped; everything else is wiped even then.
    """
    c.check(c.c_wipe_everything())


def wipe_on_signals() -> None:
    """Makes terminating signals and faults wipe every arena before the process ends.

    Python's own handlers stay: Ctrl-C raises KeyboardInterrupt, and the exit then wipes.
    """
    c.check(c.c_wipe_on_signals())


class Response(enum.IntEnum):
    END_PROCESS = 0
    CONTINUE = 1


_handlers: List[Any] = []  # never removed: another thread may be calling an older one


def set_violation_handler(handler: Optional[Callable[[Violation], Response]]) -> None:
    """Sets the handler that decides about violations; None: violations end the process.

    It runs on the thread that found the violation. If it raises, the process ends.
    """
    if handler is None:
        called = c.HANDLER(0)
    else:
        answer = handler

        def ask(violation: Any, context: Any) -> int:
            return int(answer(violation_of(violation.contents)))

        called = c.HANDLER(ask)
    _handlers.append(called)
    c.c_set_violation_handler(called, None)


# The library may find a violation after the interpreter has ended.
atexit.register(c.c_set_violation_handler, c.HANDLER(0), None)


class Addresses(enum.IntEnum):
    """Whether the stats page holds the addresses of chunks, so that memwatch can audit each arena."""

    WHILE_DUMPABLE = 0
    ALWAYS = 1
    NEVER = 2


def publish_start(
    name: Optional[str] = None,
    *,
    addresses: Addresses = Addresses.WHILE_DUMPABLE,
    tick_milliseconds: int = 100,
    listed_secrets: int = 4096,
    listed_arenas: int = 256,
) -> None:
    """Publishes names, counts, sizes and states for memwatch, until publish_stop() or exit.

    memwatch shows the process under `name`; None: its command's name. ENCLAVE_STATS=1 in the
    environment does the same when the first arena is created.
    """
    for count in (tick_milliseconds, listed_secrets, listed_arenas):
        if not 0 <= count < 1 << 32:
            raise ValueError(f"{count}: it must be from 0 to 4,294,967,295")
    options = c.CPublishOptions(
        ctypes.sizeof(c.CPublishOptions),
        None if name is None else c.encoded(name),
        addresses,
        tick_milliseconds,
        listed_secrets,
        listed_arenas,
    )
    c.check(c.publish_start_with(ctypes.byref(options)))


def publish_stop() -> None:
    """Removes the stats page."""
    c.c_publish_stop()


def publish_refresh() -> None:
    """Publishes the current counts now instead of at the next tick."""
    c.c_publish_refresh()

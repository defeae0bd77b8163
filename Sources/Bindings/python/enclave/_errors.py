"""Errors: a class for each status of enclave.h."""

import enum
from typing import Dict, Type, Union


class Status(enum.IntEnum):
    """The numbers of `enclave_status`."""

    OK = 0
    SYSTEM = 1
    UNSUPPORTED = 2
    MAP_LIMIT = 3
    LOCK_LIMIT = 4
    CAPACITY = 5
    SIZE = 6
    FROZEN = 7
    DESTROYED = 8
    INHERITED = 9
    WINDOWS_OPEN = 10
    NEEDS_KEY = 11
    PUBLISHING = 12
    DIRECTORY = 13
    ARGUMENT = 14
    NOT_OURS = 15
    NO_INTERPOSER = 16
    CLOSED = 17
    BUSY = 18
    THREAD = 19
    TAMPERED = 20
    END_OF_INPUT = 21


class EnclaveError(Exception):
    """A message: what was requested, what the system answered and what to do.

    `status` is the library's code. `errno` is the system's for SYSTEM and UNSUPPORTED, otherwise 0.
    Messages never hold contents of a secret.
    """

    def __init__(
        self, message: str, status: Union[Status, int] = Status.SYSTEM, errno: int = 0
    ) -> None:
        super().__init__(message, status, errno)
        self.status = status
        self.errno = errno

    def __str__(self) -> str:
        return str(self.args[0])


class SystemCallError(EnclaveError):
    """A system call failed: see `errno`."""


class UnsupportedError(EnclaveError):
    """This machine lacks the requested mechanism."""


class MapLimitError(EnclaveError):
    """The process has too many mappings: vm.max_map_count."""


class LockLimitError(EnclaveError):
    """RLIMIT_MEMLOCK does not allow the lock."""


class CapacityError(EnclaveError):
    """The arena's own capacity, or its key's nonces, are used up."""


class SizeError(EnclaveError, ValueError):
    """A size above 2 GiB, or an invalid alignment."""


class FrozenError(EnclaveError):
    """The arena can only be read."""


class DestroyedError(EnclaveError):
    """The arena or the secret no longer exists, or everything was wiped while a window was open."""


class InheritedByForkError(EnclaveError):
    """The arena belongs to the parent of this process."""


class WindowsOpenError(EnclaveError):
    """Windows are open: close them first."""


class NeedsKeyError(EnclaveError):
    """Only an arena with a key or cipher gate can be sealed."""


class PublishingError(EnclaveError):
    """The process already publishes."""


class DirectoryError(EnclaveError):
    """The directory cannot hold the stats page."""


class ArgumentError(EnclaveError, ValueError):
    """An invalid argument."""


class NotOursError(EnclaveError):
    """The address does not belong to a live secret."""


class NoInterposerError(EnclaveError):
    """libenclave-malloc.so is not in this process."""


class ClosedError(EnclaveError):
    """The arena is closed to this thread."""


class BusyError(EnclaveError):
    """The arena is being changed, and this thread cannot wait."""


class WindowThreadError(EnclaveError):
    """The window belongs to another thread and is still open."""


class TamperedError(EnclaveError):
    """Cipher gate: the secret was changed outside a window."""


class EndOfInputError(EnclaveError, EOFError):
    """The input ended too early."""


class WindowOrderError(WindowsOpenError, RuntimeError):
    """A window ended while its thread had a later one open.

    It closes together with the later one. Discard results computed from its contents: whether they
    were intact is not known yet. The usual cause is an `await` or `yield` in a window.
    """


_CLASSES: Dict[int, Type[EnclaveError]] = {
    Status.SYSTEM: SystemCallError,
    Status.UNSUPPORTED: UnsupportedError,
    Status.MAP_LIMIT: MapLimitError,
    Status.LOCK_LIMIT: LockLimitError,
    Status.CAPACITY: CapacityError,
    Status.SIZE: SizeError,
    Status.FROZEN: FrozenError,
    Status.DESTROYED: DestroyedError,
    Status.INHERITED: InheritedByForkError,
    Status.WINDOWS_OPEN: WindowsOpenError,
    Status.NEEDS_KEY: NeedsKeyError,
    Status.PUBLISHING: PublishingError,
    Status.DIRECTORY: DirectoryError,
    Status.ARGUMENT: ArgumentError,
    Status.NOT_OURS: NotOursError,
    Status.NO_INTERPOSER: NoInterposerError,
    Status.CLOSED: ClosedError,
    Status.BUSY: BusyError,
    Status.THREAD: WindowThreadError,
    Status.TAMPERED: TamperedError,
    Status.END_OF_INPUT: EndOfInputError,
}


def make_error(status: int, message: str, errno: int) -> EnclaveError:
    """Makes the error for a status. A status that is newer than this package makes an EnclaveError."""
    kind = _CLASSES.get(status)
    if kind is None:
        return EnclaveError(message, status, errno)
    return kind(message, Status(status), errno)

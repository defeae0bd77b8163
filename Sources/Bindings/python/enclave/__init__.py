"""Memory for secrets: mapped, locked, guarded, closed while nobody uses it, and wiped.

    import enclave

    arena = enclave.Arena("tls-keys")
    key = arena.allocate_random(32, label="session ticket key")
    with key.read() as view:        # a memoryview; released when the block ends
        sign(message, view)
    key.destroy()                   # wiped, as when the last reference is dropped

The package calls the C interface of the Enclave library through ctypes. `enclave.h` documents each
function. memwatch shows the arenas while the program runs.

Views. A window's memoryview and its slices are released when the block ends: later use raises
ValueError. A view whose buffer is exported (for example to a NumPy array) cannot be released: the block
then ends with BufferError. ctypes' from_buffer keeps the bare address. Touching the memory through
either later may end the process.

Copies. `bytes(view)`, `view.tobytes()`, `view.hex()` and every str are copies on Python's heap that
are never wiped; hmac.new() only takes such copies. Functions that take bytes-like objects (hmac.digest,
hashlib, os.writev, socket.sendmsg) take a view directly.

Threads. A window belongs to the thread that opened it, and a thread's windows end in reverse order: do
not await or yield in one. Under a key gate another thread that touches the view faults. Threads that
are started in a window inherit its key unless the library is preloaded
(`LD_PRELOAD=libenclave.so.1`).

Ctrl-C. KeyboardInterrupt may be raised at any point. No secret leaks. A window whose end it prevented
is closed, and its view released, once the exception was handled.

Fork. In a child the parent's arenas raise InheritedByForkError, and their memory is zeros or absent.
A child, such as a worker of multiprocessing with any start method, creates its own arenas.
"""

from ._arena import Arena, Gate, Layout, Lock, Statistics
from ._errors import (
    ArgumentError,
    BusyError,
    CapacityError,
    ClosedError,
    DestroyedError,
    DirectoryError,
    EnclaveError,
    EndOfInputError,
    FrozenError,
    InheritedByForkError,
    LockLimitError,
    MapLimitError,
    NeedsKeyError,
    NoInterposerError,
    NotOursError,
    PublishingError,
    SizeError,
    Status,
    SystemCallError,
    TamperedError,
    UnsupportedError,
    WindowOrderError,
    WindowsOpenError,
    WindowThreadError,
)
from ._process import (
    Addresses,
    Capability,
    Response,
    is_available,
    probe,
    publish_refresh,
    publish_start,
    publish_stop,
    set_violation_handler,
    wipe,
    wipe_everything,
    wipe_on_signals,
)
from ._secret import Secret, Window
from ._violation import Violation, ViolationKind

__version__ = "1.0.0"

__all__ = [
    "Addresses",
    "Arena",
    "ArgumentError",
    "BusyError",
    "Capability",
    "CapacityError",
    "ClosedError",
    "DestroyedError",
    "DirectoryError",
    "EnclaveError",
    "EndOfInputError",
    "FrozenError",
    "Gate",
    "InheritedByForkError",
    "Layout",
    "Lock",
    "LockLimitError",
    "MapLimitError",
    "NeedsKeyError",
    "NoInterposerError",
    "NotOursError",
    "PublishingError",
    "Response",
    "Secret",
    "SizeError",
    "Statistics",
    "Status",
    "SystemCallError",
    "TamperedError",
    "UnsupportedError",
    "Violation",
    "ViolationKind",
    "Window",
    "WindowOrderError",
    "WindowThreadError",
    "WindowsOpenError",
    "is_available",
    "probe",
    "publish_refresh",
    "publish_start",
    "publish_stop",
    "set_violation_handler",
    "wipe",
    "wipe_everything",
    "wipe_on_signals",
]

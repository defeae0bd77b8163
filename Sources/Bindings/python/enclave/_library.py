"""Loads libenclave.so and declares the types and functions of enclave.h."""

import ctypes
import os
import sys
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int32, c_size_t, c_ssize_t, c_uint32
from ctypes import c_uint64, c_void_p
from typing import Any, Union

from ._errors import EnclaveError, make_error

if sys.implementation.name != "cpython" or not sys.platform.startswith("linux"):
    raise ImportError("enclave requires CPython on Linux")

_NAME = "libenclave.so.1"


def _load() -> ctypes.CDLL:
    # Use a library that is loaded already: preloaded, or linked by an embedding program.
    bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), _NAME)
    try:
        return ctypes.CDLL(_NAME, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        pass
    try:
        return ctypes.CDLL(bundled if os.path.exists(bundled) else _NAME)
    except OSError as error:
        raise ImportError(
            f"{_NAME} cannot be loaded ({error}): install the wheel, which has it, or the library "
            "(the package libenclave1, or Assets/install-enclave), and run ldconfig or set LD_LIBRARY_PATH"
        ) from None


library = _load()


class Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("layout", c_int),
        ("lock", c_int),
        ("gate", c_int),
        ("flags", c_uint32),
        ("capacity", c_size_t),
    ]


class CStatistics(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("secret_count", c_uint64),
        ("bytes_in_use", c_uint64),
        ("bytes_mapped", c_uint64),
        ("bytes_locked", c_uint64),
        ("open_windows", c_uint64),
        ("separate_pages", c_uint64),
        ("merged_pages", c_uint64),
        ("stuck_open_pages", c_uint64),
        ("failed_locks", c_uint64),
        ("failed_opens", c_uint64),
        ("failed_allocations", c_uint64),
        ("corruptions", c_uint64),
        ("protection_key", c_int32),
        ("is_frozen", c_bool),
        ("is_sealed", c_bool),
        ("idle_bytes", c_uint64),
        ("abandoned_windows", c_uint64),
        ("retired_slots", c_uint64),
    ]


class CWindow(ctypes.Structure):
    _fields_ = [("bytes", c_void_p), ("state", c_uint64 * 6)]


class CSecret(ctypes.Structure):
    _fields_ = [("state", c_uint64 * 4)]


class CViolation(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("arena", c_char_p),
        ("label", c_char_p),
        ("description", c_char_p),
        ("size", c_size_t),
        ("offset", c_ssize_t),
    ]


class CPublishOptions(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("addresses", c_int),
        ("tick_milliseconds", c_uint32),
        ("listed_secrets", c_uint32),
        ("listed_arenas", c_uint32),
    ]


HANDLER = ctypes.CFUNCTYPE(c_int, POINTER(CViolation), c_void_p)
EACH = ctypes.CFUNCTYPE(None, POINTER(CViolation), c_void_p)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    try:
        function = getattr(library, name)
    except AttributeError:
        raise ImportError(f"{_NAME} is older than this package: it has no {name}") from None
    function.restype = result
    function.argtypes = arguments
    return function


last_error = _function("enclave_last_error", c_char_p)
last_errno = _function("enclave_last_errno", c_int)
c_probe = _function("enclave_probe", c_int, c_int)
arena_create = _function(
    "enclave_arena_create", c_int, c_char_p, POINTER(Options), POINTER(c_void_p)
)
arena_release = _function("enclave_arena_release", None, c_void_p)
arena_freeze = _function("enclave_arena_freeze", c_int, c_void_p)
arena_seal = _function("enclave_arena_seal", c_int, c_void_p)
arena_destroy = _function("enclave_arena_destroy", c_int, c_void_p, c_uint32)
arena_trim = _function("enclave_arena_trim", c_int, c_void_p, POINTER(c_size_t))
arena_statistics = _function("enclave_arena_statistics", c_int, c_void_p, POINTER(CStatistics))
arena_check = _function(
    "enclave_arena_check", c_int, c_void_p, EACH, c_void_p, POINTER(c_size_t)
)
secret_allocate = _function(
    "enclave_secret_allocate", c_int, c_void_p, c_size_t, c_size_t, c_char_p, POINTER(CSecret)
)
secret_size = _function("enclave_secret_size", c_size_t, POINTER(CSecret))
secret_address = _function("enclave_secret_address", c_void_p, POINTER(CSecret))
secret_open = _function(
    "enclave_secret_open", c_int, POINTER(CSecret), c_int, POINTER(CWindow), POINTER(c_void_p)
)
secret_free = _function("enclave_secret_free", c_int, POINTER(CSecret))
secret_resize = _function("enclave_secret_resize", c_int, POINTER(CSecret), c_size_t)
read_passphrase = _function(
    "enclave_read_passphrase",
    c_int,
    c_void_p,
    c_char_p,
    c_int,
    c_size_t,
    c_char_p,
    POINTER(CSecret),
)
close = _function("enclave_close", c_int, POINTER(CWindow))
c_wipe = _function("enclave_wipe", None, c_void_p, c_size_t)
fill_random = _function("enclave_fill_random", c_int, c_void_p, c_size_t)
c_wipe_everything = _function("enclave_wipe_everything", c_int)
c_wipe_on_signals = _function("enclave_wipe_on_signals", c_int)
c_set_violation_handler = _function("enclave_set_violation_handler", None, HANDLER, c_void_p)
publish_start_with = _function("enclave_publish_start_with", c_int, POINTER(CPublishOptions))
c_publish_stop = _function("enclave_publish_stop", None)
c_publish_refresh = _function("enclave_publish_refresh", None)

# Makes a view of memory that no Python object owns. The window ends its validity.
view_of_memory = ctypes.pythonapi.PyMemoryView_FromMemory
view_of_memory.restype = ctypes.py_object
view_of_memory.argtypes = [c_void_p, c_ssize_t, c_int]

Buffer = Union[bytes, bytearray, memoryview]


def failure(status: int) -> EnclaveError:
    """The error of this thread's last failed call."""
    text = last_error() or b""
    return make_error(status, text.decode("utf-8", "replace"), last_errno())


def check(status: int) -> None:
    if status:
        raise failure(status)


def encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("names and labels must not contain NUL characters")
    return text.encode()


def address_of(buffer: Any) -> Any:
    """Returns a writable, contiguous buffer as a ctypes object, and its size in bytes.

    The buffer cannot be resized while the result lives.
    """
    with memoryview(buffer) as view:
        if view.readonly:
            raise TypeError(f"a {type(buffer).__name__} cannot be wiped: pass a bytearray")
        size = view.nbytes
    return (ctypes.c_char * size).from_buffer(buffer), size

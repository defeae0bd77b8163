# Enclave from Python, through ctypes: python3 client.py LIBRARY

import ctypes
import sys

enclave = ctypes.CDLL(sys.argv[1])
enclave.enclave_last_error.restype = ctypes.c_char_p
enclave.enclave_allocate.restype = ctypes.c_void_p
enclave.enclave_allocate.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_char_p]
enclave.enclave_usable_size.restype = ctypes.c_size_t
for name in ("enclave_free", "enclave_usable_size", "enclave_arena_release"):
    getattr(enclave, name).argtypes = [ctypes.c_void_p]


class Window(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_void_p), ("state", ctypes.c_uint64 * 6)]


enclave.enclave_open.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Window)]
enclave.enclave_close.argtypes = [ctypes.POINTER(Window)]


def check(status):
    if status != 0:
        raise OSError(enclave.enclave_last_error().decode())


NAME, LABEL = b"python", b"a token"  # kept until the process ends
check(enclave.enclave_publish_start(None))
arena = ctypes.c_void_p()
check(enclave.enclave_arena_create(NAME, None, ctypes.byref(arena)))
tokens = [enclave.enclave_allocate(arena, 100, 0, LABEL) for _ in range(50)]
assert all(tokens), enclave.enclave_last_error()
for number, token in enumerate(tokens):
    window = Window()
    check(enclave.enclave_open(token, 1, ctypes.byref(window)))
    ctypes.memset(token, number, 100)
    enclave.enclave_close(ctypes.byref(window))
for number, token in enumerate(tokens):
    window = Window()
    check(enclave.enclave_open(token, 0, ctypes.byref(window)))
    assert (ctypes.c_ubyte * 100).from_address(token)[99] == number
    enclave.enclave_close(ctypes.byref(window))
assert enclave.enclave_usable_size(tokens[0]) == 100
window = Window()
assert enclave.enclave_open(ctypes.addressof(window), 0, ctypes.byref(window)) == 15
enclave.enclave_publish_refresh()
print("ready", len(tokens), 100 * len(tokens), flush=True)
sys.stdin.readline()
for token in tokens:
    check(enclave.enclave_free(token))
enclave.enclave_arena_release(arena)
print("ok")

"""Searches the memory, stacks and registers of a process for bytes of a key.

The process is stopped during the search. Each aligned word of 8 bytes of a key is searched individually and in
either byte order, so that partial copies and the limbs of big integers are found. If a large piece of memory
cannot be read, it is read page by page, so that memory behind guard pages is searched, too. Processor caches
and kernel memory (socket buffers, swap) are not searched.
"""

import ctypes
import hashlib
import os
from dataclasses import dataclass

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long

# <sys/ptrace.h>, <elf.h>
SEIZE, INTERRUPT, DETACH, GETREGSET = 0x4206, 0x4207, 17, 0x4204
GENERAL, FLOATING = 1, 2
MORE_SETS = [0x202, 0x405]  # x86's XSAVE area with the wide vectors; arm64's SVE
STACK_POINTER = {"x86_64": 19, "aarch64": 31}  # its index among the general registers
ALL_CHILDREN = 0x40000000  # __WALL

PAGE = os.sysconf("SC_PAGE_SIZE")
PIECE = 256 * PAGE


def words(data, both_orders=True):
    """The 8-byte words of a text."""
    found = [data[index : index + 8] for index in range(0, len(data) - 7, 8)]
    return found + [word[::-1] for word in found] if both_orders else found


def ed25519_forms(seed):
    """A key's seed, and the scalar that makes signatures (RFC 8032, 5.1.5)."""
    scalar = bytearray(hashlib.sha512(seed).digest()[:32])
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return {"seed": bytes(seed), "scalar": bytes(scalar)}


@dataclass(frozen=True)
class Location:
    """Where words of a form were found: registers or a mapping."""

    form: str
    kind: str  # registers, stack, heap, arena, guard, other
    thread: int = 0
    start: int = 0
    protection: str = ""
    name: str = ""

    def __str__(self):
        if self.kind == "registers":
            return f"{self.form} in registers of thread {self.thread}"
        return f"{self.form} in {self.kind} {self.protection} {self.name} at {self.start:#x}"


@dataclass
class Mapping:
    start: int
    end: int
    protection: str
    name: str
    flags: frozenset = frozenset()
    key: int = 0

    @property
    def is_arena(self):
        """Unlike Swift's or C's heap: excluded from core dumps, and zeroed in forked children."""
        return self.name == "" and {"dd", "wf"} <= self.flags


@dataclass
class Result:
    places: dict  # Location: the number of the form's words found there
    threads: int
    searched_bytes: int
    arena_bytes: int  # of them, in arenas
    has_keys: bool  # an arena has a protection key
    unread: dict  # name of the mapping: unreadable bytes

    def of(self, form):
        return {place: count for place, count in self.places.items() if place.form == form}


def _ptrace(request, thread, address=None, data=None):
    if libc.ptrace(request, thread, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace: {os.strerror(error)}")


class _IOVector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _registers(thread, register_set):
    buffer = ctypes.create_string_buffer(64 << 10)
    vector = _IOVector(ctypes.addressof(buffer), len(buffer))
    _ptrace(GETREGSET, thread, register_set, ctypes.addressof(vector))
    return buffer.raw[: vector.length]


def _stop(process):
    """Stops all threads, including those created meanwhile."""
    stopped = set()
    while True:
        new = {int(name) for name in os.listdir(f"/proc/{process}/task")} - stopped
        if not new:
            return stopped
        for thread in new:
            try:
                _ptrace(SEIZE, thread)
                _ptrace(INTERRUPT, thread)
                os.waitpid(thread, ALL_CHILDREN)
                stopped.add(thread)
            except ProcessLookupError:
                pass  # It has ended.


def _mappings(process):
    mappings = []
    with open(f"/proc/{process}/smaps") as lines:
        for line in lines:
            field, *rest = line.split()
            if field == "VmFlags:":
                mappings[-1].flags = frozenset(rest)
            elif field == "ProtectionKey:":
                mappings[-1].key = int(rest[0])
            elif not field.endswith(":"):
                start, end = (int(part, 16) for part in field.split("-"))
                mappings.append(Mapping(start, end, rest[0], " ".join(rest[4:])))
    return mappings


def _pieces(memory, mapping, unread):
    """The contents, in pieces that overlap by 7 bytes."""
    address, before = mapping.start, b""
    while address < mapping.end:
        size = min(PIECE, mapping.end - address)
        try:
            data = os.pread(memory, size, address)
        except (OSError, OverflowError):
            data = b""
        if data:
            yield before + data
            before = data[-7:]
            address += len(data)
        else:
            # A guard page, or kernel memory: the next page may be readable.
            unread[mapping.name] = unread.get(mapping.name, 0) + PAGE
            address, before = (address // PAGE + 1) * PAGE, b""


def search(process, forms):
    """Finds the words in `forms`, by name, in a process."""
    threads = _stop(process)
    try:
        places, unread, searched, in_arenas, has_keys = {}, {}, 0, 0, False
        stacks = {}
        for thread in threads:
            sets = [_registers(thread, GENERAL), _registers(thread, FLOATING)]
            stacks[thread] = int.from_bytes(
                sets[0][8 * STACK_POINTER[os.uname().machine] :][:8], "little"
            )
            for register_set in MORE_SETS:
                try:
                    sets.append(_registers(thread, register_set))
                except OSError:
                    pass  # not on this processor
            for form, sought in forms.items():
                count = sum(any(word in data for data in sets) for word in sought)
                if count:
                    places[Location(form, "registers", thread)] = count
        memory = os.open(f"/proc/{process}/mem", os.O_RDONLY)
        try:
            for mapping in _mappings(process):
                here = [t for t, sp in stacks.items() if mapping.start <= sp < mapping.end]
                if here or mapping.name == "[stack]":
                    kind = "stack"
                elif mapping.name == "[heap]":
                    kind = "heap"
                elif mapping.is_arena:
                    kind = "arena"
                    has_keys = has_keys or mapping.key != 0
                else:
                    kind = "other"
                found = {}
                for piece in _pieces(memory, mapping, unread):
                    searched += len(piece)
                    in_arenas += len(piece) if kind == "arena" else 0
                    if not piece.strip(b"\0"):
                        continue
                    for form, sought in forms.items():
                        for word in sought:
                            if word in piece:
                                found.setdefault(form, set()).add(word)
                for form, there in found.items():
                    place = Location(
                        form, kind, here[0] if here else 0, mapping.start, mapping.protection,
                        mapping.name,
                    )
                    places[place] = len(there)
        finally:
            os.close(memory)
        return Result(places, len(threads), searched, in_arenas, has_keys, unread)
    finally:
        for thread in threads:
            try:
                _ptrace(DETACH, thread)
            except OSError:
                pass  # It was killed.

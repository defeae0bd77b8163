"""Reads a stats page with nothing but the standard library and the documented table.

usage: read_page.py PageFormat.md PAGE

Prints JSON: the process's words, and each arena's, label's, chunk's and secret's words by name.
Shares no code with memwatch: what it knows, it parses from the documentation.
"""
import fcntl
import json
import os
import re
import struct
import sys

offsets = {}
for line in open(sys.argv[1], encoding="utf-8"):
    row = re.match(r"\| (\w+) \| (\d+) \| (\w+) \|", line)
    if row:
        offsets.setdefault(row.group(1), {})[row.group(3)] = int(row.group(2))

page = os.open(sys.argv[2], os.O_RDONLY | os.O_NOFOLLOW)


def word(at):
    return struct.unpack("<Q", os.pread(page, 8, at))[0]


def record(kind, at, size):
    for _ in range(1000):
        before = word(at)
        body = os.pread(page, size, at)
        if before == word(at) and before % 2 == 0:
            return body
    return None


def fields(kind, body):
    out = {}
    for name, at in offsets[kind].items():
        out[name] = struct.unpack_from("<Q", body, at)[0]
        if name in ("name", "text"):
            length = struct.unpack_from("<Q", body, offsets[kind][name + "Length"])[0]
            out[name] = body[at : at + min(length, 64)].decode("utf-8", "replace")
    return out


header = fields("header", os.pread(page, 1024, 0))
assert os.pread(page, 8, 0) == b"ENCLAVE\x01", "not a page"
assert header["version"] >> 32 == 1, "another version"
assert os.fstat(page).st_size == header["byteCount"], "cut"

stamped = ["arena", "label", "chunk", "secret"]
stamps = sum((header[kind + "Capacity"] + 63) // 64 * 8 for kind in stamped + ["map"])
at = (4096 + stamps + 4095) // 4096 * 4096
tables = {}
for kind in stamped + ["event", "vault", "map"]:
    size, capacity = header[kind + "Bytes"], header[kind + "Capacity"]
    tables[kind] = []
    for index in range(capacity):
        body = record(kind, at + index * size, size)
        if body is not None and struct.unpack_from("<Q", body, 8)[0] != 0:
            tables[kind].append(fields(kind, body))
    at += size * capacity

lock = fcntl.fcntl(
    page, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
)
kind, _, _, _, owner = struct.unpack("hhqqi4x", lock)
print(
    json.dumps(
        {
            "header": header,
            "process": fields("process", record("process", 1024, 512)),
            "tables": tables,
            "holder": owner if kind != fcntl.F_UNLCK else None,
        }
    )
)

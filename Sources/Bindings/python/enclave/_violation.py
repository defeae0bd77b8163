"""Violations: misuse of memory that the library detected."""

import enum
from dataclasses import dataclass
from typing import Optional

from ._library import CViolation


class ViolationKind(enum.IntEnum):
    OVERFLOW = 1
    UNDERFLOW = 2
    WRITE_AFTER_FREE = 3
    DOUBLE_FREE = 4
    FOREIGN_POINTER = 5
    FREED_WHILE_OPEN = 6
    TAMPERED = 7


@dataclass(frozen=True)
class Violation:
    """A violation, as found by `Arena.check` or passed to a violation handler."""

    kind: ViolationKind
    arena: str
    label: Optional[str]
    description: str
    size: int
    offset: int
    """Offset of the first wrong byte from the start of the secret."""


def violation_of(given: CViolation) -> Violation:
    label: Optional[bytes] = given.label
    return Violation(
        ViolationKind(given.kind),
        (given.arena or b"").decode("utf-8", "replace"),
        None if label is None else label.decode("utf-8", "replace"),
        (given.description or b"").decode("utf-8", "replace"),
        given.size,
        given.offset,
    )

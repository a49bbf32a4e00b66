"""The fault of a dump or a log as values: the part `fault` of the report, and the JSON of `vmbox explain`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TOPICS: Final[Mapping[str, str]] = {
    "hardware": "Hardware",
    "what": "What",
    "where": "Where",
    "how": "How",
    "there": "What lies there",
    "cpus": "Other CPUs",
    "taint": "Taint",
    "deadlock": "Deadlocks",
    "roots": "Tasks that hold others up",
    "blocked": "Other blocked tasks",
    "futexes": "Futexes",
    "requests": "Requests in flight",
    "workqueues": "Workqueues",
}
"""What sentences are of, and the heading of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One thing that was read, and how to see it."""

    topic: str
    """Of a fault: hardware, what, where, how, there (what lies at the addresses), cpus or taint. Of waits: deadlock,
    roots, blocked, futexes, requests or workqueues."""
    text: str
    command: str | None
    """The debugger's command that shows it; None for what only `vmbox explain` reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame:
    """One function at the address of the fault; the innermost one first."""

    function: str
    file: str
    line: int
    column: int
    inline: bool
    """Whether the compiler put it into the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """A line of source near the fault."""

    number: int
    text: str
    fault: bool
    """Whether it is the line of the fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A register of the instruction that faulted."""

    register: str
    value: str
    """Hexadecimal, with 0x."""
    meaning: str | None
    """What the value is known to be, e.g. a poison."""
    variables: tuple[str, ...]
    """Pointers of the function that have this value, with their types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happened in the end. What is not known is None or empty, and `unknown` has the reason."""

    address: str | None
    """That was accessed, hexadecimal, with 0x."""
    access: str | None
    """read, write or execute."""
    function: str | None
    offset: int | None
    """Of the instruction in the function."""
    module: str | None
    """Of the function; None for vmlinux."""
    instruction: str | None
    """In AT&T syntax for x86."""
    operands: tuple[Operand, ...]
    frames: tuple[SourceFrame, ...]
    source: tuple[SourceLine, ...]
    sentences: tuple[Sentence, ...]
    """In the order in which they are to be read."""
    unknown: Mapping[str, str]
    """For each thing that could not be read: the reason."""
    doubt: str | None = None
    """Why what the debugger read may be wrong; None where nothing is known against it."""

"""What the script `Containerfile.d/files/explain-fault.py` is asked in a case, and what it answers.

The answer comes from where a hostile dump was read: every value is checked, and texts are cut.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sandbox.explain.oops_lines import Oops
from sandbox.host import decode, paths

_CPUS: Final = 64
"""CPUs of which stacks are read."""
_OBJDUMP: Final = {
    "x86_64": ("-m", "i386:x86-64"),
    "aarch64": ("-m", "aarch64"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    offset: int
    """From the one that faulted."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFacts:
    function: str
    file: str
    line: int
    column: int
    inline: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A local variable or argument of a function at the fault."""

    function: str
    name: str
    type: str
    pointer: bool
    value: int | None
    """None for one that is not a number, or that the compiler left out here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFacts:
    cpu: int
    pid: int
    command: str
    functions: tuple[str, ...]
    """The innermost ones, without those that handle the crash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The answer to "fault"."""

    errors: Mapping[str, str]
    pc: int | None = None
    """None where the stack has no frame of the log's oops; then there are no registers, lines and variables."""
    registers: Mapping[str, int] = field(default_factory=dict)
    instructions: tuple[Instruction, ...] = ()
    lines: tuple[LineFacts, ...] = ()
    callers: tuple[LineFacts, ...] = ()
    """The frames outside of the function that faulted; file is empty where the line is not known."""
    variables: tuple[Variable, ...] = ()
    cpus: tuple[CpuFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackFacts:
    """Who allocated or freed a slab object last, as SLUB keeps it with slub_debug=U."""

    event: str
    """allocated or freed."""
    address: int
    """Of the struct track."""
    pid: int
    cpu: int
    caller: str
    file: str
    """Empty where the line is not known."""
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """What lies at an address."""

    address: int
    names: tuple[str, ...]
    """In drgn's words, e.g. "task stack: 102 (insmod) +0x3d38"."""
    cache: str | None = None
    """Of slab objects."""
    object: int | None = None
    """Address of the slab object."""
    allocated: bool | None = None
    """Whether the slab object is in use; None where this cannot be told."""
    page: str | None = None
    """Flags of its page, for an address of the direct map that is in no slab."""
    tracks: tuple[TrackFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFacts:
    type: str
    member: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The answer to "values"."""

    errors: Mapping[str, str]
    objects: tuple[ObjectFacts, ...] = ()
    members: tuple[MemberFacts, ...] = ()
    words: tuple[int | None, ...] = ()


def script() -> bytes:
    return (paths.data_dir() / "Containerfile.d" / "files" / "explain-fault.py").read_bytes()


def fault_request(oops: Oops | None, arch: str | None, modules: Mapping[str, bytes | None]) -> str:
    """The argument that asks for the frame of `oops`. `modules` are those of its stack, with debug files."""
    request = {
        **_frame_of(oops),
        "ask": "fault",
        "machine": _OBJDUMP.get(arch or "", ()),
        "modules": [
            {"name": name, "content": None if content is None else base64.b64encode(content).decode()}
            for name, content in modules.items()
        ],
        "cpus": _CPUS,
    }
    return json.dumps(request)


def values_request(
    oops: Oops, *, addresses: Sequence[int], members: Sequence[tuple[int, int]], words: Sequence[int]
) -> str:
    """The argument that asks what lies at `addresses`, for the `words` there, and for `members`.

    A member is (index in `Facts.variables`, offset in what it points to).
    """
    return json.dumps({**_frame_of(oops), "ask": "values", "addresses": addresses, "members": members, "words": words})


def _frame_of(oops: Oops | None) -> dict[str, object]:
    place = oops.place if oops else None
    return {
        "code": oops.code.hex() if oops else "",
        "code_at": oops.code_at if oops else 0,
        "place": [place.function, place.offset] if place else None,
        "null": oops is not None and oops.bad_place == 0,
        "pid": (oops.pid or 0) if oops else 0,
    }


def read_facts(answer: bytes) -> Facts:
    """Raises `DecodeError` for an answer that is not understood."""
    found = decode.decode(Facts, decode.parse_json(answer), keys="any")
    if any(value < 0 for value in found.registers.values()):
        raise decode.DecodeError("a register has no sign")
    return found


def read_values(answer: bytes) -> Values:
    """Raises `DecodeError` for an answer that is not understood."""
    return decode.decode(Values, decode.parse_json(answer), keys="any")

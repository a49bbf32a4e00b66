"""Source lines of addresses, and instructions of bytes: asked in a container that has debug files and no dump.

drgn reads the DWARF. It is that of the newest profile, whichever kernel it is: before 0.0.33 it had no way to load
debug files without a program.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox import image as images
from sandbox.case.container_spec import limits
from sandbox.debugger import DEBUGGERS
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.errors import ConfigurationError, EngineFailed, SessionFailed
from sandbox.host import decode, paths
from sandbox.profiles import load
from sandbox.progress import QUIET, Reporter

MOST: Final = 4096
"""Addresses of one question: it is an argument of a program, which may have 128 KiB."""

_INSIDE: Final = "/debuginfo"
_ARCHITECTURES: Final = {
    "x86_64": ("X86_64", True, True),
    "i386": ("I386", True, False),
    "i686": ("I386", True, False),
    "aarch64": ("AARCH64", True, True),
    "ppc64le": ("PPC64", True, True),
    "ppc64": ("PPC64", False, True),
    "s390x": ("S390X", False, True),
    "riscv64": ("RISCV64", True, True),
}
"""drgn's name, whether it is little-endian, whether it has 64 bits."""

_OBJDUMP: Final = {
    "x86_64": ["-m", "i386", "-M", "x86-64"],
    "i386": ["-m", "i386"],
    "i686": ["-m", "i386"],
    "aarch64": ["-m", "aarch64"],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugFile:
    """A vmlinux or module, and the addresses in it that are asked for."""

    path: str
    """Relative to the directory of vmlinux."""
    sections: Sequence[tuple[str, int]] | None
    """(name, bytes) of the loaded sections of a module; None for vmlinux."""
    places: Sequence[tuple[str, int]]
    """(section, offset) in a module, ("", address) in vmlinux."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Bytes of the "Code:" line of an oops."""

    content: bytes
    at: int
    """Offset of the instruction that faulted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """One frame at an address."""

    function: str
    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What is known of a file's places, in their order; innermost frame first. `error` says why nothing is."""

    lines: tuple[tuple[SourceLine, ...], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """(offset from the one that faulted, text). `error` says why there is none."""

    instructions: tuple[tuple[int, str], ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """In the order of the question."""

    files: tuple[Lines, ...]
    code: tuple[Instructions, ...]


def ask(
    files: Sequence[DebugFile],
    code: Sequence[Code],
    *,
    arch: str,
    directory: Path,
    engine: Engine,
    reporter: Reporter = QUIET,
) -> Answer:
    """Ask for source lines and instructions. `directory` has the debug files. Raises `SessionFailed`, `EngineError`."""
    known = _ARCHITECTURES.get(arch)
    if known is None:
        raise ConfigurationError(f"source lines of {arch} are not read", hint="drgn has no support for it")
    # The debugger that reads any architecture.
    names = {one.name for one in DEBUGGERS.values() if one.reads_any_arch}
    profile = next((one for one in load().values() if one.latest and names & {*one.image.debuggers}), None)
    if profile is None:
        raise ConfigurationError("the newest profile has no debugger that reads source lines")
    script = (paths.data_dir() / "Containerfile.d" / "files" / "source-lines.py").read_text(encoding="utf-8")
    request = {
        "arch": known[0],
        "little": known[1],
        "wide": known[2],
        "files": [{"path": one.path, "sections": one.sections, "places": one.places} for one in files],
        "code": [{"machine": _OBJDUMP[arch], "content": one.content.hex(), "at": one.at} for one in code]
        if arch in _OBJDUMP
        else [],
    }
    allowed = limits(engine.info())
    spec = ContainerSpec(
        image=images.ensure(profile, engine, reporter),
        argv=["python3", "-I", "-c", script, json.dumps(request)],
        env={"LC_ALL": "C.UTF-8", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},  # noqa: S108 - in the container
        binds=[Bind(source=directory.resolve(), target=_INSIDE)],
        tmpfs=[Tmpfs(target="/tmp", size=64 << 20)],  # noqa: S108 - in the container
        memory=allowed.memory,
        pids=64,
        cpus=allowed.cpus,
    )
    with reporter.step("Reading source lines"):
        try:
            said = b"".join(engine.run(spec))
        except EngineFailed as error:
            raise SessionFailed(
                "source lines could not be read",
                hint="vmbox doctor checks the engine",
                detail=error.detail or error.message,
            ) from error
    try:
        return _read(decode.parse_json(said), files, code)
    except (decode.DecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise SessionFailed("the answer about source lines is not understood", hint="report this") from error


def _read(answer: object, files: Sequence[DebugFile], code: Sequence[Code]) -> Answer:
    """The container's answer as values; debug files may be crafted. Raises `ValueError`, `TypeError`, `KeyError`,
    `OverflowError`.
    """
    if not isinstance(answer, dict):
        raise TypeError("no object")
    found = tuple(_lines(one) for one in answer["files"])
    instructions = tuple(_instructions(one) for one in answer["code"])
    if len(found) != len(files) or any(
        one.error is None and len(one.lines) != len(file.places) for one, file in zip(found, files, strict=True)
    ):
        raise ValueError("another number of answers")
    if not instructions:
        instructions = tuple(Instructions(error="no disassembler for this machine") for _ in code)
    if len(instructions) != len(code):
        raise ValueError("another number of answers")
    return Answer(files=found, code=instructions)


def _lines(one: dict[str, object]) -> Lines:
    if "error" in one:
        return Lines(error=str(one["error"])[:300])
    lines = one["lines"]
    if not isinstance(lines, list):
        raise TypeError("no list")
    return Lines(
        lines=tuple(
            tuple(
                SourceLine(function=str(name)[:256], file=str(file)[:1024], line=int(line), column=int(column))
                for name, file, line, column in frames
            )
            for frames in lines
        )
    )


def _instructions(one: dict[str, object]) -> Instructions:
    if "error" in one:
        return Instructions(error=str(one["error"])[:300])
    listed = one["instructions"]
    if not isinstance(listed, list):
        raise TypeError("no list")
    return Instructions(instructions=tuple((int(offset), str(text)[:256]) for offset, text in listed))

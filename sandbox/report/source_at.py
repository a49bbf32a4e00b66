"""Ask a debugger for the source line of a place in the kernel's code: the tool `source` of `vmbox mcp`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandbox.case.options import OpenOptions
from sandbox.errors import SessionFailed, UsageError
from sandbox.explain import source
from sandbox.host import decode, paths
from sandbox.progress import QUIET, Reporter
from sandbox.render import one_line
from sandbox.report.shipped_scripts import SCRIPTED, run_shipped, scripted_session
from sandbox.session import module_debuginfo
from sandbox.session.session import Session
from sandbox.session.start import open_session

_PLACE: Final = re.compile(r"(?:0x)?[0-9a-f]{8,16}|[A-Za-z_.$][\w.$]{0,255}(?:\+(?:0x)?[0-9a-f]{1,8})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceLine:
    function: str
    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One address; a name may be that of several functions."""

    address: int
    symbol: str | None
    offset: int
    size: int
    """Bytes of the symbol."""
    module: str | None
    lines: tuple[PlaceLine, ...]
    """Innermost first; those before the last were inlined into the last."""
    why: str
    """Why there are none."""
    call: bool
    """Whether the lines are those of the call that returns to the address."""
    lacks: bool = False
    """Whether there is no debug file of the module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    places: tuple[Place, ...]
    error: str


def read(
    dump: Path,
    place: str,
    options: OpenOptions,
    reporter: Reporter = QUIET,
    *,
    returns: bool = False,
    timeout: float = 60,
) -> tuple[Place, ...]:
    """The source lines of an address or of `symbol+0xoffset`. With `returns` they are those of the call before it.

    Raises `UsageError` for a place that is none or not in this kernel, `SessionFailed` where the answer is not
    understood, and as opening does.
    """
    # As the log has it, with the symbol's size and module.
    wanted = re.sub(r"/0x[0-9a-f]+(?: \[[\w-]+\])?$", "", place.strip())
    if _PLACE.fullmatch(wanted) is None:
        raise UsageError(f"{place!r} is neither an address nor a symbol", hint="ffffffff81234567, or vfs_read+0x9b")
    session, _ = open_session(dump, replace(options, debugger=SCRIPTED.name), reporter)
    with session:
        found = _ask(session, wanted, returns=returns, timeout=timeout)
        lacking = frozenset(one.module for one in found.places if one.module is not None and one.lacks)
        if lacking and module_debuginfo.any_missing(session.case, lacking):
            module_debuginfo.fetch(session.case, lacking, reporter)
            found = _ask(session, wanted, returns=returns, timeout=timeout)
    if not found.places:
        why = f": {found.error}" if found.error else ""
        raise UsageError(
            f"no symbol of this kernel has that name: {wanted}{why}",
            hint="of a module's symbol give the address, which the command sym NAME prints",
        )
    return found.places


def _ask(session: Session, place: str, *, returns: bool, timeout: float) -> Places:
    script = (paths.data_dir() / "Containerfile.d" / "files" / "source-at.py").read_bytes()
    request = json.dumps({"place": place, "returns": returns})
    with scripted_session(session) as scripted:
        answer = run_shipped(scripted, "source", script, request, timeout=timeout)
    try:
        return decode.decode(Places, decode.parse_json(answer), keys="any")
    except ValueError as error:
        raise SessionFailed("the answer about source lines is not understood", detail=str(error)) from error


def words(found: tuple[Place, ...], directory: Path | None) -> Iterator[str]:
    """In words, with the command that shows it; and ten lines of the source in `directory`.

    No text of the answer makes a line of its own.
    """
    for line in _words(found, directory):
        yield one_line(line)


def _words(found: tuple[Place, ...], directory: Path | None) -> Iterator[str]:
    for one in found:
        name = f"{one.symbol}+{one.offset:#x}/{one.size:#x}" if one.symbol else "no symbol"
        yield (
            f"{one.address:016x} {name}"
            + (f" [{one.module}]" if one.module else "")
            + (", the call that returns there" if one.call else "")
        )
        for line in one.lines:
            yield f"  {line.function or '?'} {line.file}:{line.line}:{line.column}"
        if not one.lines:
            lacks = f"there is no debug file of {one.module}" if one.lacks else one.why
            yield f"  no line is known: {lacks}"
        yield f"      sym {one.address:x}"
        if directory is not None and one.lines:
            yield from _excerpt(directory, one.lines[0])


def _excerpt(directory: Path, line: PlaceLine) -> Iterator[str]:
    try:
        found = source.excerpt(directory, line.file, line.line)
    except LookupError as error:
        yield f"  no source: {error}"
        return
    yield "  Source (that it is of this very build is not checked):"
    for one in found:
        yield f"  {'>' if one.fault else ' '} {one.number:5}  {one.text.expandtabs()}"

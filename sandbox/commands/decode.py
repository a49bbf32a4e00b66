"""`vmbox decode`: a log with the source lines of its symbols, as scripts/decode_stacktrace.sh prints it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import render
from sandbox.case.options import OpenOptions
from sandbox.commands.decode_symbols import (
    DecodedSymbol,
    FoundSymbols,
    code_lines,
    compare,
    find_symbols,
    proof,
    questions,
)
from sandbox.errors import DebuginfoError, NoSpace, NotADump, UnknownKernel
from sandbox.formats import elf
from sandbox.host import standard_input
from sandbox.host.background import in_background
from sandbox.host.tempdirs import scratch_directory
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.naming import named

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sandbox.case.source_lines import Code, Instructions, SourceLine
    from sandbox.debuginfo.symbols import SymbolTable
    from sandbox.engine import Engine
    from sandbox.model import Debuginfo, Vmcore

_MOST_MODULES: Final = 64
"""Modules whose debug files are fetched: a log can name any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedCode:
    """The "Code:" line of an oops."""

    line: int
    """Index of its line."""
    user: bool
    """Whether the bytes are of a program, and not the kernel's."""
    instructions: tuple[tuple[int, str], ...]
    """(offset from the instruction that faulted, text)."""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A log and what is known of its symbols."""

    lines: Sequence[str]
    symbols: Mapping[int, Sequence[tuple[int, DecodedSymbol]]]
    """For each line that has some: the column behind the symbol, and the symbol."""
    code: Sequence[DecodedCode]
    release: str | None
    vmlinux: str
    proof: str
    origin: str


def decode(given: str, options: OpenOptions, reporter: Reporter, *, kernel: Vmcore | None = None) -> Decoded:
    """Decode a log: a file in any form that `info` reads, a dump's own, the URL of either, `-` for standard input, or a
    link of drm_panic.

    `kernel` names the kernel of a log that does not.
    Raises `NotADump` for a text without symbols, `DebuginfoNotFound`, and `DebuginfoMismatch` where the sizes of the
    symbols are not those of the debuginfo.
    """
    from sandbox.case.dumps import identify, read_log

    with _file_of(given) as (path, name):
        vmcore = identify(path, reporter)
        if kernel is not None:
            vmcore = replace(
                vmcore,
                release=kernel.release,
                utsname_version=kernel.utsname_version,
                arch=kernel.arch or vmcore.arch,
                banner=None,
                build_id=None,
            )
        lines = [line.decode("utf-8", "backslashreplace") for line in read_log(path, reporter)]
        work = find_symbols(lines)
        if not work.symbols:
            raise NotADump(f"{name} has no symbol+0xoffset/0xsize to decode", hint="give the log with the call trace")
        if vmcore.release is None and vmcore.build_id is None:
            raise UnknownKernel(
                f"{name} does not say which kernel it is of",
                hint="give the lines from the one with CPU: and PID: on, or name it: --release UNAME-R",
            )
        return _decoded(vmcore, lines, work, options, reporter)


@contextmanager
def _file_of(given: str) -> Iterator[tuple[Path, str]]:
    """The file to read, or a URL, and its name for people."""
    from sandbox.dump import panic_link

    if given == "-":
        with standard_input.as_file() as path:
            yield path, "standard input"
    elif panic_link.find(os.fsencode(given)) is None:
        yield named(given), without_secrets(given)
    else:
        with scratch_directory() as directory:
            path = directory / "log"
            path.write_bytes(given.encode())
            yield path, "the link"


def _decoded(
    vmcore: Vmcore, lines: Sequence[str], work: FoundSymbols, options: OpenOptions, reporter: Reporter
) -> Decoded:
    from sandbox.case.provision import find_debuginfo
    from sandbox.case.source_lines import ask
    from sandbox.engine import connect

    # It starts while debuginfo is looked for and the symbols are compared.
    connecting = in_background(lambda: connect(options.engine), name="engine")
    try:
        debuginfo = find_debuginfo(vmcore, options, reporter, index=False)
        tables = _tables(debuginfo, work, reporter)
        chosen = compare(work, tables)
        agreed = proof(debuginfo, work, force=options.force)
    except BaseException:
        connecting.add_done_callback(_close)
        raise
    files = questions(chosen, tables)
    code = code_lines(lines)
    with closing(connecting.result()) as engine:
        answer = ask(
            [question for question, _ in files],
            [one for _, _, one in code],
            arch=vmcore.arch or "x86_64",
            directory=debuginfo.directory,
            engine=engine,
            reporter=reporter,
        )
    for (_, symbols), found in zip(files, answer.files, strict=True):
        for number, symbol in enumerate(symbols):
            if found.error is not None:
                symbol.problem = found.error
            elif not found.lines[number]:
                symbol.problem = "no line is known of this address"
            else:
                symbol.lines = found.lines[number]
    disassembled = [_disassembled(vmcore.arch, one[2], found) for one, found in zip(code, answer.code, strict=True)]
    return Decoded(
        lines=lines,
        symbols=work.places,
        code=[
            DecodedCode(line=at, user=user, instructions=one.instructions, problem=one.error)
            for (at, user, _), one in zip(code, disassembled, strict=True)
        ],
        release=vmcore.release,
        vmlinux=str(debuginfo.vmlinux),
        proof=agreed,
        origin=debuginfo.origin,
    )


def _disassembled(arch: str | None, code: Code, found: Instructions) -> Instructions:
    """What the image's objdump said, which is this host's and may know no other machine."""
    if found.error is None or arch != "aarch64":
        return found
    from sandbox.explain import arm64_decode

    return replace(found, instructions=tuple(arm64_decode.listing(code.content, code.at)), error=None)


def _close(connecting: Future[Engine]) -> None:
    if connecting.exception() is None:
        connecting.result().close()


def _tables(debuginfo: Debuginfo, work: FoundSymbols, reporter: Reporter) -> dict[str | None, tuple[str, SymbolTable]]:
    """For vmlinux (None) and each module of the log: its path beside vmlinux, and its symbols."""
    from sandbox.debuginfo.modules import fetch_modules, module_name, spelled, those_in
    from sandbox.debuginfo.symbols import SymbolTable

    tables: dict[str | None, tuple[str, SymbolTable]] = {None: ("vmlinux", SymbolTable(debuginfo.vmlinux))}
    named = dict.fromkeys(symbol.module for symbol in work.symbols.values() if symbol.module is not None)
    wanted = spelled(list(named)[:_MOST_MODULES])
    if wanted - those_in(debuginfo.directory):
        try:
            fetch_modules(debuginfo.vmlinux, wanted, reporter)
        except (DebuginfoError, NoSpace) as error:
            reporter.notice(f"debug files of modules could not be fetched: {error.message}")
    with suppress(FileNotFoundError):
        for path in sorted((debuginfo.directory / "modules").iterdir()):
            if (module := module_name(path.name)) in wanted:
                with suppress(elf.NotElf):
                    tables[module] = (f"modules/{path.name}", SymbolTable(path))
    return tables


def show(decoded: Decoded, *, json: bool) -> int:
    """Print the log with source lines behind its symbols, or all of it as JSON. Returns 1 if no symbol has one."""
    known = {symbol.key: symbol for places in decoded.symbols.values() for _, symbol in places}
    done = sum(1 for symbol in known.values() if symbol.lines)
    if json:
        render.as_json(
            {
                "release": decoded.release,
                "vmlinux": decoded.vmlinux,
                "proof": decoded.proof,
                "origin": decoded.origin,
                "lines": [
                    {"text": line, "symbols": [render.plain(symbol) for _, symbol in decoded.symbols.get(at, ())]}
                    for at, line in enumerate(decoded.lines)
                ],
                "code": [render.plain(one) for one in decoded.code],
            }
        )
        return int(not done)
    output = render.Output()
    for line in decoded_lines(decoded):
        output(f"{line}\n".encode("utf-8", "backslashreplace"))
    for remark in remarks(decoded):
        render.note(render.visible(f"vmbox: {remark}"))
    return int(not done)


def decoded_lines(decoded: Decoded) -> Iterator[str]:
    """The lines of the log with source lines behind their symbols, and below "Code:" its instructions."""
    codes = {one.line: one for one in decoded.code}
    for at, line in enumerate(decoded.lines):
        yield _with_lines(line, decoded.symbols.get(at, ()))
        if (code := codes.get(at)) is not None:
            yield from _listing(code)


def remarks(decoded: Decoded) -> Iterator[str]:
    """How many symbols have a line, by which debuginfo, and why others have none."""
    known = {symbol.key: symbol for places in decoded.symbols.values() for _, symbol in places}
    done = sum(1 for symbol in known.values() if symbol.lines)
    missing: dict[str, list[str]] = {}
    for symbol in known.values():
        if symbol.problem is not None:
            missing.setdefault(symbol.problem, []).append(symbol.name)
    yield f"{done} of {len(known)} symbols, by {decoded.vmlinux}: {decoded.proof}"
    for problem, names in missing.items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        yield f"{problem}: {', '.join(names[:5])}{more}"


def _with_lines(line: str, symbols: Sequence[tuple[int, DecodedSymbol]]) -> str:
    text = line
    for end, symbol in sorted(symbols, key=lambda one: -one[0]):
        if symbol.lines:
            text = f"{text[:end]} ({_place(symbol.lines)}){text[end:]}"
    return text


def _place(lines: Sequence[SourceLine]) -> str:
    """`drivers/tty/sysrq.c:155`; of inlined functions each with its name, the innermost first."""
    places = [f"{one.file}:{one.line}" for one in lines]
    if len(lines) == 1:
        return places[0]
    return " < ".join(
        f"{one.function} {place}" if one.function else place for one, place in zip(lines, places, strict=True)
    )


def _listing(code: DecodedCode) -> Iterator[str]:
    whose = "the program's, not the kernel's" if code.user else "the kernel's"
    if code.problem is not None:
        yield f"  (these instructions are {whose}; {code.problem})"
        return
    yield f"  (these instructions are {whose})"
    for offset, text in code.instructions:
        mark, end = ("*", "   <-- trapping instruction") if offset == 0 else (" ", "")
        yield f"  {mark} {offset:+4d}  {text}{end}"

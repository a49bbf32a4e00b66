"""`vmbox decode`: a log with the source lines of its symbols, as scripts/decode_stacktrace.sh prints it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox import render
from sandbox.case.options import OpenOptions
from sandbox.errors import DebuginfoError, DebuginfoMismatch, NoSpace, NotADump, UnknownKernel
from sandbox.formats import elf
from sandbox.host import standard_input
from sandbox.host.background import in_background
from sandbox.host.tempdirs import scratch_directory
from sandbox.log import without_secrets
from sandbox.progress import Reporter
from sandbox.remote.naming import named

if TYPE_CHECKING:
    from concurrent.futures import Future

    from sandbox.case.source_lines import Code, DebugFile, Instructions, SourceLine
    from sandbox.debuginfo.symbols import Symbol, SymbolTable
    from sandbox.engine import Engine
    from sandbox.model import Debuginfo, Vmcore

_MOST: Final = 2000
"""Different symbols that are looked up."""
_MOST_MODULES: Final = 64
"""Modules whose debug files are fetched: a log can name any number."""
_MOST_CODE: Final = 20
"""Lines of "Code:" that are disassembled."""
_ALLOC: Final = 2
"""SHF_ALLOC: the section is loaded."""

_SYMBOL: Final = re.compile(
    r"(?<![\w.$+])(?P<name>[A-Za-z_.$][\w.$]{0,255})\+0x(?P<offset>[0-9a-f]{1,8})/0x(?P<size>[0-9a-f]{1,8})"
    r"(?P<module> \[(?P<in>[\w-]{1,56})(?: [0-9a-f]{40})?\])?"
)
_EXACT: Final = re.compile(r"\b(?:R?EIP|RIP|PC|pc|epc|NIP|ERA|PSW)\b[^+]*$|\bNIP \[[^+]*$")
"""What is before the address of an instruction; any other address is one that a call returns to."""
_REGISTER: Final = re.compile(r"\b(?:RIP|EIP): ([0-9a-f]{4}):|\bpc : ")
_CODE: Final = re.compile(r"(?:^|\] ?|\s)Code: (?P<bytes>[0-9a-f<>() ]{2,1024})$")
_USER: Final = frozenset({"0033", "0023", "0073", "e033"})


@dataclass(slots=True, kw_only=True)
class DecodedSymbol:
    """One symbol with its offset and size, as the log prints it."""

    name: str
    offset: int
    size: int
    module: str | None
    exact: bool
    """Whether the address is that of an instruction; of a call, the line is that of the call."""
    lines: tuple[SourceLine, ...] = ()
    """Innermost frame first; those before the last were inlined into the last."""
    agrees: bool | None = None
    """Whether the size is the debuginfo's; None where it has no such symbol, or was not asked."""
    candidates: int = 0
    """Functions of that name and size; of several, the first line is of any of them, and none is given."""
    problem: str | None = None

    @property
    def key(self) -> tuple[str, int, int, str | None, bool]:
        return self.name, self.offset, self.size, self.module, self.exact


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


@dataclass(slots=True)
class _Work:
    symbols: dict[tuple[str, int, int, str | None, bool], DecodedSymbol] = field(default_factory=dict)
    places: dict[int, list[tuple[int, DecodedSymbol]]] = field(default_factory=dict)


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
        work = _found(lines)
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


def _found(lines: Sequence[str]) -> _Work:
    work = _Work()
    for at, line in enumerate(lines):
        if "+0x" not in line:
            continue
        for match in _SYMBOL.finditer(line[:4096]):
            symbol = DecodedSymbol(
                name=match["name"].lstrip("."),
                offset=int(match["offset"], 16),
                size=int(match["size"], 16),
                module=match["in"],
                exact=_is_exact(line, match.start()),
            )
            if symbol.key not in work.symbols and len(work.symbols) >= _MOST:
                continue
            symbol = work.symbols.setdefault(symbol.key, symbol)
            work.places.setdefault(at, []).append((match.end(), symbol))
    return work


def _is_exact(line: str, at: int) -> bool:
    """Whether the symbol at index `at` is the address of an instruction."""
    # What is before an earlier symbol says nothing of this one; a line has as many symbols as fit into it.
    begin = line.rfind("+", 0, at) + 1
    if _EXACT.search(line[begin:at]) is not None:
        return True
    warning = line.rfind(" at ", begin, at)
    return warning >= 0 and line.find("WARNING: ", 0, warning) >= 0


def _decoded(vmcore: Vmcore, lines: Sequence[str], work: _Work, options: OpenOptions, reporter: Reporter) -> Decoded:
    from sandbox.case.provision import find_debuginfo
    from sandbox.case.source_lines import ask
    from sandbox.engine import connect

    # It starts while debuginfo is looked for and the symbols are compared.
    connecting = in_background(lambda: connect(options.engine), name="engine")
    try:
        debuginfo = find_debuginfo(vmcore, options, reporter, index=False)
        tables = _tables(debuginfo, work, reporter)
        chosen = _compare(work, tables)
        agreed = _proof(debuginfo, work, force=options.force)
    except BaseException:
        connecting.add_done_callback(_close)
        raise
    files = _questions(chosen, tables)
    code = _code(lines)
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


def _tables(debuginfo: Debuginfo, work: _Work, reporter: Reporter) -> dict[str | None, tuple[str, SymbolTable]]:
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


def _compare(
    work: _Work, tables: Mapping[str | None, tuple[str, SymbolTable]]
) -> dict[str | None, list[tuple[DecodedSymbol, Symbol]]]:
    """The place of each symbol that agrees with its size; the others get their problem."""
    chosen: dict[str | None, list[tuple[DecodedSymbol, Symbol]]] = {}
    for module in {symbol.module and symbol.module.replace("-", "_") for symbol in work.symbols.values()}:
        symbols = [one for one in work.symbols.values() if (one.module and one.module.replace("-", "_")) == module]
        if module not in tables:
            for one in symbols:
                one.problem = "the module is not in the debug package"
            continue
        found = tables[module][1].find({one.name for one in symbols})
        for one in symbols:
            places = found.get(one.name, ())
            fitting = [place for place in places if place.agrees(one.offset, one.size)]
            one.agrees, one.candidates = (bool(fitting) if places else None), len(fitting)
            if len(fitting) == 1:
                chosen.setdefault(module, []).append((one, fitting[0]))
            elif fitting:
                one.problem = f"{len(fitting)} functions have this name and size"
            elif places:
                there = ", ".join(
                    f"0x{size:x}" for size in sorted({min(place.sizes, default=0) for place in places})[:3]
                )
                one.problem = f"its size is {there} in the debuginfo"
            else:
                one.problem = "the debuginfo has no such symbol"
    return chosen


def _proof(debuginfo: Debuginfo, work: _Work, *, force: bool) -> str:
    """What agrees, in words. Raises `DebuginfoMismatch` where too many sizes differ."""
    compared = [one for one in work.symbols.values() if one.agrees is not None]
    # A module may be rebuilt without its kernel.
    compared = [one for one in compared if one.module is None] or compared
    same = sum(1 for one in compared if one.agrees)
    if (not compared or len(compared) - same > len(compared) // 10) and not force:
        raise DebuginfoMismatch(
            f"{debuginfo.vmlinux} is not of the kernel in the log: "
            f"{same} of {len(compared)} symbols have the size that the log gives",
            hint="give the vmlinux of that build: --debuginfo FILE; --force decodes those that agree",
        )
    return f"{debuginfo.proof}; size of {same} of {len(compared)} symbols"


def _questions(
    chosen: Mapping[str | None, Sequence[tuple[DecodedSymbol, Symbol]]],
    tables: Mapping[str | None, tuple[str, SymbolTable]],
) -> list[tuple[DebugFile, list[DecodedSymbol]]]:
    from sandbox.case.source_lines import DebugFile

    questions = []
    for module, symbols in chosen.items():
        path, table = tables[module]
        places = [
            (place.section or "", place.value + one.offset - (0 if one.exact or not one.offset else 1))
            for one, place in symbols
        ]
        sections = None
        if module is not None:
            sections = [(one.name, one.size) for one in table.sections if one.flags & _ALLOC and one.size]
        questions.append((DebugFile(path=path, sections=sections, places=places), [one for one, _ in symbols]))
    return questions


def _code(lines: Sequence[str]) -> list[tuple[int, bool, Code]]:
    """(line, whether the bytes are a program's, bytes) of each "Code:" line that marks one."""
    from sandbox.case.source_lines import Code

    found: list[tuple[int, bool, Code]] = []
    user = False
    for at, line in enumerate(lines):
        if register := _REGISTER.search(line):
            user = register[1] in _USER
        if len(found) < _MOST_CODE and "Code: " in line and (match := _CODE.search(line)):
            words = match["bytes"].split()
            marked = next((number for number, word in enumerate(words) if word[0] in "<("), None)
            octets = [_octets(word.strip("<>()")) for word in words]
            if marked is not None and all(octets):
                content, before = b"".join(octets), len(b"".join(octets[:marked]))
                found.append((at, user, Code(content=content, at=before)))
    return found


def _octets(word: str) -> bytes:
    """Bytes of a word in the order of memory: x86 prints bytes, arm64 numbers of 32 bits."""
    try:
        return bytes.fromhex(word)[::-1]
    except ValueError:
        return b""


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

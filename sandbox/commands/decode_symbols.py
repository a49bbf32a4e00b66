"""What the text of a log has for `vmbox decode`: symbols, and code; and which of the symbols are the debuginfo's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandbox.errors import DebuginfoMismatch

if TYPE_CHECKING:
    from sandbox.case.source_lines import Code, DebugFile, SourceLine
    from sandbox.debuginfo.symbols import Symbol, SymbolTable
    from sandbox.model import Debuginfo

_MOST: Final = 2000
"""Different symbols that are looked up."""
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


@dataclass(slots=True)
class FoundSymbols:
    """The symbols of a log. What is known of each is put into it step by step."""

    symbols: dict[tuple[str, int, int, str | None, bool], DecodedSymbol] = field(default_factory=dict)
    """By `DecodedSymbol.key`: each once."""
    places: dict[int, list[tuple[int, DecodedSymbol]]] = field(default_factory=dict)
    """By index of the line: the column behind each symbol, and the symbol."""


def find_symbols(lines: Sequence[str]) -> FoundSymbols:
    """Find name+0xoffset/0xsize in the first 4096 characters of each line; at most `_MOST` different ones."""
    work = FoundSymbols()
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


def compare(
    work: FoundSymbols, tables: Mapping[str | None, tuple[str, SymbolTable]]
) -> dict[str | None, list[tuple[DecodedSymbol, Symbol]]]:
    """Return the place of each symbol that agrees with its size, by module; the others get their problem.

    `tables` has, for vmlinux (None) and each module, the path of its file and its symbols.
    """
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


def proof(debuginfo: Debuginfo, work: FoundSymbols, *, force: bool) -> str:
    """Say in words what agrees of the symbols that were compared.

    Raises `DebuginfoMismatch` where more than a tenth of the sizes differ, unless `force`.
    """
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


def questions(
    chosen: Mapping[str | None, Sequence[tuple[DecodedSymbol, Symbol]]],
    tables: Mapping[str | None, tuple[str, SymbolTable]],
) -> list[tuple[DebugFile, list[DecodedSymbol]]]:
    """Return what is asked of each file, and the symbols in the order of its places.

    The line of a call is that of the instruction before the one that it returns to.
    """
    from sandbox.case.source_lines import DebugFile

    asked = []
    for module, symbols in chosen.items():
        path, table = tables[module]
        places = [
            (place.section or "", place.value + one.offset - (0 if one.exact or not one.offset else 1))
            for one, place in symbols
        ]
        sections = None
        if module is not None:
            sections = [(one.name, one.size) for one in table.sections if one.flags & _ALLOC and one.size]
        asked.append((DebugFile(path=path, sections=sections, places=places), [one for one, _ in symbols]))
    return asked


def code_lines(lines: Sequence[str]) -> list[tuple[int, bool, Code]]:
    """Return (index of the line, whether the bytes are a program's, bytes) of each "Code:" line that marks one byte."""
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

"""What `vmbox decode` finds in a log, and what it makes of the debuginfo's answer. Real ones: tests/e2e."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from engines import INFO
from sandbox import image
from sandbox.case import source_lines
from sandbox.case.options import OpenOptions
from sandbox.case.source_lines import Answer, Code, DebugFile, SourceLine
from sandbox.commands import decode
from sandbox.commands.decode_symbols import (
    DecodedSymbol,
    FoundSymbols,
    code_lines,
    compare,
    find_symbols,
    proof,
    questions,
)
from sandbox.debuginfo.proof import Identity, prove
from sandbox.debuginfo.symbols import Symbol
from sandbox.engine import ContainerSpec, EngineInfo
from sandbox.errors import DebuginfoMismatch, NotADump, SessionFailed, UnknownKernel
from sandbox.model import Debuginfo, DumpFormat, Vmcore
from sandbox.progress import QUIET

LINES = [
    "[   10.1] RIP: 0010:ext4_write+0x12/0x40 [ext4]",
    "[   10.1] Code: 0f 05 <48> 83 c4 18",
    "[   10.2]  ? vfs_write+0xe6/0x560",
    "[   10.2]  vfs_write+0xe6/0x560",
    "[   10.2]  .tcp_ack.isra.0+0x1/0x2 [nf-nat 3b43fad5034874490492495d552c0af6a5fab235] (P)",
    "[   10.3] pc : el1_abort+0x4/0x8",
    "[   10.3] lr : do_mem+0x5/0x9",
    "[   10.3] WARNING: CPU: 0 PID: 1 at fs/a.c:12 warned+0x1/0x2",
    "[   10.4] RIP: 0033:0x4b0642",
    "[   10.4] Code: 49 89 ca <48> 83",
    "[   10.5] Code: d503201f aa0003e0 (b900003f)",
    "[   10.5] Code: Bad RIP value. a+b",
    "[   10.6] mem 0x10+0x20/0x30 1+0x1/0x2",
]


def test_symbols_of_a_log() -> None:
    work = find_symbols(LINES)
    found = [(at, one.name, one.offset, one.size, one.module, one.exact) for at, (_, one) in _each(work)]
    assert found == [
        (0, "ext4_write", 0x12, 0x40, "ext4", True),
        (2, "vfs_write", 0xE6, 0x560, None, False),
        (3, "vfs_write", 0xE6, 0x560, None, False),
        (4, "tcp_ack.isra.0", 1, 2, "nf-nat", False),
        (5, "el1_abort", 4, 8, None, True),
        (6, "do_mem", 5, 9, None, False),
        (7, "warned", 1, 2, None, True),
    ]
    assert len(work.symbols) == 6


def _each(work: FoundSymbols) -> list[tuple[int, tuple[int, DecodedSymbol]]]:
    return [(at, one) for at, places in sorted(work.places.items()) for one in places]


def test_code_lines() -> None:
    assert code_lines(LINES) == [
        (1, False, Code(content=bytes.fromhex("0f054883c418"), at=2)),
        (9, True, Code(content=bytes.fromhex("4989ca4883"), at=3)),
        (10, True, Code(content=bytes.fromhex("1f2003d5e00300aa3f0000b9"), at=8)),
    ]


class Table:
    """A symbol table of vmlinux."""

    sections = ()

    def find(self, names: set[str]) -> dict[str, tuple[Symbol, ...]]:
        def symbol(value: int, size: int) -> Symbol:
            return Symbol(section=None, value=value, sizes=frozenset({size}), last=False)

        known = {
            "vfs_write": (symbol(0x1000, 0x560), symbol(0x9000, 0x40)),
            "el1_abort": (symbol(0x2000, 8), symbol(0x3000, 8)),
            "do_mem": (symbol(0x4000, 0x99),),
        }
        return {name: known[name] for name in names if name in known}


def test_only_symbols_whose_size_agrees_are_looked_up() -> None:
    work = find_symbols(LINES)
    chosen = compare(work, {None: ("vmlinux", Table())})  # type: ignore[dict-item]
    ((symbol, place),) = chosen[None]
    assert (symbol.name, symbol.agrees, place.value) == ("vfs_write", True, 0x1000)
    ((question, _),) = questions(chosen, {None: ("vmlinux", Table())})  # type: ignore[dict-item]
    # The line of a call is that of the instruction before the one it returns to.
    assert question == DebugFile(path="vmlinux", sections=None, places=[("", 0x10E5)])
    problems = {one.name: one.problem for one in work.symbols.values() if one.problem}
    assert problems == {
        "el1_abort": "2 functions have this name and size",
        "do_mem": "its size is 0x99 in the debuginfo",
        "warned": "the debuginfo has no such symbol",
        "ext4_write": "the module is not in the debug package",
        "tcp_ack.isra.0": "the module is not in the debug package",
    }


def test_debuginfo_of_another_build_is_refused() -> None:
    debuginfo = Debuginfo(
        directory=Path("/d"), vmlinux=Path("/d/vmlinux"), build_id=None, origin="here", proof="release alone"
    )
    work = find_symbols([f" f{number}+0x1/0x20" for number in range(20)])
    for number, symbol in enumerate(work.symbols.values()):
        symbol.agrees = number > 1
    assert proof(debuginfo, work, force=False) == "release alone; size of 18 of 20 symbols"
    rebuilt = find_symbols([" a+0x1/0x2", " b+0x1/0x2 [m]"])
    for symbol in rebuilt.symbols.values():
        symbol.agrees = symbol.module is None
    assert proof(debuginfo, rebuilt, force=False) == "release alone; size of 1 of 1 symbols"
    next(one for one in work.symbols.values() if one.agrees).agrees = False
    with pytest.raises(DebuginfoMismatch, match="17 of 20 symbols have the size"):
        proof(debuginfo, work, force=False)
    assert "17 of 20" in proof(debuginfo, work, force=True)
    with pytest.raises(DebuginfoMismatch):
        proof(debuginfo, find_symbols([" a+0x1/0x2"]), force=False)


def test_lines_are_put_behind_their_symbols() -> None:
    inner = SourceLine(function="pde_write", file="fs/proc/inode.c", line=330, column=9)
    outer = SourceLine(function="proc_reg_write", file="fs/proc/inode.c", line=342, column=8)
    symbol = DecodedSymbol(name="a", offset=1, size=2, module=None, exact=False, lines=(inner, outer))
    other = DecodedSymbol(name="b", offset=1, size=2, module=None, exact=False, lines=(outer,))
    line = " a+0x1/0x2 from b+0x1/0x2 [m]"
    decoded = decode.Decoded(
        lines=[line, "no symbol"],
        symbols={0: [(10, symbol), (len(line), other)]},
        code=[],
        release="6.1.0",
        vmlinux="vmlinux",
        proof="release alone",
        origin="here",
    )
    assert list(decode.decoded_lines(decoded)) == [
        (
            " a+0x1/0x2 (pde_write fs/proc/inode.c:330 < proc_reg_write fs/proc/inode.c:342)"
            " from b+0x1/0x2 [m] (fs/proc/inode.c:342)"
        ),
        "no symbol",
    ]


class Answering:
    """An engine whose container answers with this."""

    def __init__(self, said: object) -> None:
        self.said = said

    def info(self) -> EngineInfo:
        return INFO

    def run(self, _: ContainerSpec) -> list[bytes]:
        return [json.dumps(self.said).encode()]


def _asked(said: object, files: list[DebugFile], monkeypatch: pytest.MonkeyPatch) -> Answer:
    monkeypatch.setattr(image, "ensure", lambda *_: "image")
    code = [Code(content=b"\x90", at=0)]
    engine = Answering(said)
    return source_lines.ask(files, code, arch="x86_64", directory=Path("/d"), engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ([], 1),
        ({"files": []}, 1),
        ({"files": [{"lines": []}], "code": []}, 1),
        ({"files": [{"lines": [["x"]]}], "code": []}, 1),
        ({"files": [{"lines": 7}], "code": []}, 1),
        ({"files": [{"lines": [[["f", "a.c", "x", 1]]]}], "code": []}, 1),
        ({"files": [{"error": "bad"}], "code": [{"instructions": [[0]]}]}, 1),
    ],
)
def test_answers_of_another_shape_are_refused(said: object, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [DebugFile(path="vmlinux", sections=None, places=[("", 1)])] * number
    with pytest.raises(SessionFailed, match="not understood"):
        _asked(said, files, monkeypatch)


def test_good_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [DebugFile(path="vmlinux", sections=None, places=[("", 1), ("", 2)])]
    said = {"files": [{"lines": [[["f", "a.c", 3, 0]], []]}], "code": []}
    found = _asked(said, files, monkeypatch)
    assert found.files[0].lines == ((SourceLine(function="f", file="a.c", line=3, column=0),), ())
    assert found.code[0].error == "no disassembler for this machine"


def test_logs_that_cannot_be_decoded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"[    1.000000] eth0: up\n[    2.000000] eth0: down\n")
    with pytest.raises(NotADump, match="has no symbol"):
        decode.decode(str(path), OpenOptions(), QUIET)
    path.write_bytes(b"[    1.000000]  vfs_write+0xe6/0x560\n[    2.000000]  ksys_write+0x7b/0x110\n")
    with pytest.raises(UnknownKernel, match="does not say which kernel"):
        decode.decode(str(path), OpenOptions(), QUIET)


BANNER = "Linux version 7.2.12+deb14-amd64 (a@b) (gcc) #1 SMP PREEMPT_DYNAMIC Debian 7.2.12-1 (2026-10-22)"


@pytest.mark.parametrize(
    ("version", "kind", "agreed"),
    [
        ("#1 PREEMPT(lazy)  Debian 7.2.12-1", DumpFormat.LOG, "release, and what the log has of the version"),
        ("#1", DumpFormat.LOG, "release, and what the log has of the version"),
        (None, DumpFormat.LOG, "release alone"),
        ("#1 PREEMPT(lazy)  Debian 7.2.12-2", DumpFormat.LOG, None),
        ("#2", DumpFormat.LOG, None),
        ("#1 PREEMPT(lazy)  Debian 7.2.12-1", DumpFormat.ELF, None),
        (None, DumpFormat.ELF, None),
    ],
)
def test_proof_by_the_line_above_a_stack(version: str | None, kind: DumpFormat, agreed: str | None) -> None:
    log = Vmcore(path=Path("a"), format=kind, size=1, release="7.2.12+deb14-amd64", utsname_version=version)
    found = Identity(build_id="ab" * 20, banners=(BANNER,), dwarf=True)
    if agreed is None:
        with pytest.raises(DebuginfoMismatch):
            prove(log, found, name="vmlinux")
    else:
        assert prove(log, found, name="vmlinux") == agreed


def test_a_line_full_of_symbols_costs_what_it_is_long() -> None:
    """What is before a symbol was looked through from the beginning of the line for each of them."""

    def seconds(lines: list[str]) -> float:
        began = time.process_time()
        assert sum(map(len, find_symbols(lines).places.values())) == 400
        return time.process_time() - began

    of_a_line, of_many = (
        min(seconds(lines) for _ in range(3)) for lines in (["f+0x1/0x2 " * 400], ["f+0x1/0x2 "] * 400)
    )
    assert of_a_line < 4 * of_many


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("RIP: 0010:f+0x1/0x2", True),
        ("WARNING: CPU: 0 PID: 1 at kernel/a.c:1 f+0x1/0x2", True),
        ("WARNING: a+b at kernel/a.c:1 f+0x1/0x2", True),
        ("WARNING: at kernel/a+b.c:1 f+0x1/0x2", False),
        ("RIP: 0010:g+0x1/0x2 f+0x1/0x2", False),
        (" at WARNING: f+0x1/0x2", False),
        (" f+0x1/0x2", False),
    ],
)
def test_an_address_of_an_instruction_is_told_by_what_is_before_it(line: str, expected: bool) -> None:
    found = {one.name: one.exact for _, one in find_symbols([line]).places[0]}
    assert found["f"] is expected

"""What a new format of dumps takes: a module with its `DumpFile`, and its line in the reader's table."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sandbox.dump import header_only, identify, kdump_file, magic, read_log, reader, unpack
from sandbox.dump.header import Header, PageMissingError
from sandbox.dump.header_only import ScanResult
from sandbox.dump.source import FileSource
from sandbox.errors import DumpUnreadable
from sandbox.model import DumpFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.dump.dump_file import DumpFile
    from sandbox.formats.streams import Source
    from sandbox.model import Vmcore

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
PAGE = 4096
HEADER = struct.Struct("<4sIqI")
"""Of the toy: mark, bytes of VMCOREINFO, phys_base, pages; behind it VMCOREINFO, then each page with its number."""
MARK = b"\xdd\xcc\x8b\x9a"
"""mclx's, so that magic knows it: its own memory is not read."""


class ToyFile:
    part = None
    stores_text_as_is = False
    slow_to_measure = False

    def __init__(self, source: Source, header: Header, start: int, pages: int) -> None:
        self.header = header
        self._source, self._start, self._pages = source, start, pages

    def memory(self) -> ToyFile:
        return self

    def read(self, address: int, size: int) -> bytes:
        data = b""
        for pfn in range(address // PAGE, (address + size - 1) // PAGE + 1):
            data += self._page(pfn)
        return data[address % PAGE :][:size]

    def _page(self, wanted: int) -> bytes:
        for number in range(self._pages):
            at = self._start + number * (4 + PAGE)
            if self._source.read_at(at, 4) == wanted.to_bytes(4, "little"):
                return self._source.read_at(at + 4, PAGE)
        raise PageMissingError

    def missing(self) -> str | None:
        need = self._start + self._pages * (4 + PAGE)
        return "cut off in the toy" if (self._source.size or 0) < need else None

    def search(self) -> ScanResult:
        return ScanResult()

    def additions(self, _vmcore: Vmcore, _end: int, /) -> Iterator[tuple[int, bytes]]:
        return iter(())


def parse(source: Source, _name: str) -> DumpFile | None:
    head = source.read_at(0, HEADER.size)
    if len(head) < HEADER.size:
        return None
    _, size, phys_base, pages = HEADER.unpack(head)
    info = source.read_at(HEADER.size, size)
    header = Header(format=DumpFormat.MCLX, arch="x86_64", vmcoreinfo=info, phys_base=phys_base)
    return ToyFile(source, header, HEADER.size + size, pages)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The memory of a real dump in the toy's format."""
    with FileSource(FIXTURE) as source:
        dump = kdump_file.parse(source, FIXTURE.name)
        assert dump is not None
        there = [pfn for pfn in range(dump.layout.max_mapnr) if dump.index.position(pfn) is not None]
        pages = b"".join(pfn.to_bytes(4, "little") + dump.memory().read(pfn * PAGE, PAGE) for pfn in there)
        info = dump.header.vmcoreinfo
        head = HEADER.pack(MARK, len(info), dump.header.phys_base or 0, len(there))
    path = tmp_path / "toy"
    path.write_bytes(head + info + pages)
    return path


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(reader.FORMATS, DumpFormat.MCLX, reader.Format(parse=parse, header_size=HEADER.size))


def test_a_format_outside_the_table_is_only_recognized(toy: Path) -> None:
    found = identify(toy)
    assert (found.format, found.complete, found.cause) == (DumpFormat.MCLX, None, None)
    with pytest.raises(DumpUnreadable, match="the log of a mclx file is not read here"):
        list(read_log(toy))


@pytest.mark.usefixtures("_registered")
def test_a_format_in_the_table_has_its_memory_read(toy: Path) -> None:
    found, real = identify(toy), identify(FIXTURE)
    assert (found.format, found.complete, found.release) == (DumpFormat.MCLX, True, real.release)
    assert (found.cause, found.panic, found.banner) == (real.cause, real.panic, real.banner)
    assert list(read_log(toy)) == list(read_log(FIXTURE))


@pytest.mark.usefixtures("_registered")
def test_cut_and_wrapped_like_all_others(toy: Path, tmp_path: Path) -> None:
    import gzip

    cut = tmp_path / "cut"
    cut.write_bytes(toy.read_bytes()[:-1])
    assert identify(cut).incomplete_reason == "cut off in the toy"
    wrapped = tmp_path / "toy.gz"
    wrapped.write_bytes(gzip.compress(toy.read_bytes(), 1))
    found = identify(wrapped)
    assert (found.wrappers, found.format, found.cause) == (("gz",), "mclx", "sysrq")
    assert unpack(found, tmp_path / "cache").read_bytes() == toy.read_bytes()


def test_every_format_has_its_first_bytes_and_one_reader() -> None:
    recognised = {one.kind for one in magic._DUMPS}
    assert recognised == {*DumpFormat} - {DumpFormat.LOG, DumpFormat.SOSREPORT, DumpFormat.RELEASE}
    assert not reader.FORMATS.keys() & header_only._PARSERS.keys()

"""A dump told as a kdump file, and kdump files of chosen pages."""

import random
import struct
import time
import tracemalloc
from dataclasses import replace

import dump_writer
import pytest

from sandbox.dump import identify, kdump, reader
from sandbox.dump.header import PageMissingError
from sandbox.dump.kdump_writer import PageView, RangeBitmaps, write_pages
from sandbox.dump.source import FileSource
from sandbox.errors import DumpUnreadable

INFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nNUMBER(phys_base)=0\n"
FRAMES = (3, 4, 5, 700, 40_000, 70_001)


def page(pfn):
    return random.Random(pfn).randbytes(64) * 64


@pytest.fixture(params=["kdump", "elf", "elf of aarch64"])
def dump(request, tmp_path):
    """A dump of six pages far from each other, as a path and what `identify` would tell of it."""
    path = tmp_path / "vmcore"
    pages = {pfn: page(pfn) for pfn in FRAMES}
    if request.param == "kdump":
        path.write_bytes(dump_writer.kdump(pages, INFO, level=17))
    else:
        path.write_bytes(dump_writer.elf(pages, INFO, machine=183 if request.param == "elf of aarch64" else 62))
    return path


def opened(path):
    source = FileSource(path)
    file = reader.parse(source, path.name)
    vmcore = replace(identify(path), utsname_version="#1 SMP Debian 6.1.170-3")
    beginning = file.as_kdump(vmcore)
    assert beginning is not None
    return beginning, file.memory()


def test_a_view_is_the_same_dump(dump, tmp_path):
    beginning, memory = opened(dump)
    view = PageView(beginning, memory)
    assert view.pages == len(FRAMES)
    copy = tmp_path / "copy"
    # Read in odd pieces, as a kernel may.
    pieces, at = [], 0
    while piece := view.read_at(at, 5000):
        pieces.append(piece)
        at += len(piece)
    copy.write_bytes(b"".join(pieces))
    assert copy.stat().st_size == view.size
    with FileSource(copy) as source:
        told = reader.open_dump(source, "copy")
        assert told.header.release == "6.1.0-test"
        assert b"OSRELEASE=6.1.0-test" in told.header.vmcoreinfo
        for pfn in FRAMES:
            assert told.memory().read(pfn * 4096, 4096) == page(pfn)
        with pytest.raises(PageMissingError):
            told.memory().read(6 * 4096, 4096)
        assert told.incomplete() is None


def test_a_view_knows_which_pages_are_read(dump):
    beginning, memory = opened(dump)
    seen = []
    view = PageView(beginning, memory, seen.append)
    start = view.size - len(FRAMES) * 4096
    view.read_at(0, start)
    assert seen == []
    view.read_at(start + 3 * 4096 + 100, 1)
    assert seen == [700]
    view.read_at(start + 4096 - 1, 2)
    assert seen == [700, 3, 4]


def test_an_excerpt_has_the_pages_and_no_others(dump, tmp_path):
    beginning, memory = opened(dump)
    small = tmp_path / "small"
    noted = beginning.with_note(kdump.excerpt_note("of vmcore,\n made \x1b[2J today", beginning.order))
    small.write_bytes(b"".join(write_pages(noted, memory, [70_001, 3, 3, 700, 99], tmp_path)))
    assert {one.name for one in tmp_path.iterdir()} == {"small", "vmcore"}
    found = identify(small)
    assert found.excerpt == "of vmcore, made  [2J today"
    assert found.complete is True
    assert found.release == "6.1.0-test"
    with FileSource(small) as source:
        told = reader.open_dump(source, "small")
        for pfn in FRAMES:
            if pfn in {3, 700, 70_001}:
                assert told.memory().read(pfn * 4096, 4096) == page(pfn)
            else:
                with pytest.raises(PageMissingError):
                    told.memory().read(pfn * 4096, 4096)


def test_notes_of_a_dump_are_kept(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf({1: page(1)}, INFO))
    beginning, memory = opened(path)
    small = tmp_path / "small"
    small.write_bytes(b"".join(write_pages(beginning, memory, [1], tmp_path)))
    before, after = identify(path), identify(small)
    assert (after.nr_cpus, after.vmcoreinfo) == (before.nr_cpus, before.vmcoreinfo)


def test_a_page_that_is_damaged_is_no_page_of_zeros(tmp_path):
    path = tmp_path / "vmcore"
    raw = {3: dump_writer.zlibbed(page(3)), 4: (b"no zlib", 1)}
    path.write_bytes(dump_writer.kdump({}, INFO, raw=raw))
    beginning, memory = opened(path)
    view = PageView(beginning, memory)
    start = view.size - 2 * 4096
    assert view.read_at(start, 4096) == page(3)
    with pytest.raises(DumpUnreadable, match="0x4000 is damaged"):
        view.read_at(start + 4096, 10)
    small = tmp_path / "small"
    small.write_bytes(b"".join(write_pages(beginning, memory, [3, 4], tmp_path)))
    with FileSource(small) as source, pytest.raises(PageMissingError):
        reader.open_dump(source, "small").memory().read(4 * 4096, 4096)


@pytest.mark.parametrize("made", [{"bits": 32}, {"signature": b"DISKDUMP"}])
def test_no_excerpt_is_made_of_what_has_no_place_in_it(made, tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.kdump({3: page(3)}, INFO, **made))
    with FileSource(path) as source:
        assert reader.parse(source, path.name).as_kdump(identify(path)) is None


@pytest.mark.slow
def test_every_position_has_its_frame():
    chosen = sorted(random.Random(1).sample(range(400_000), 5_000))
    data = dump_writer.kdump({}, INFO, raw=dict.fromkeys(chosen, (b"x" * 4096, 0)))

    class Bytes:
        size = len(data)

        def read_at(self, offset, size):
            return data[offset : offset + size]

    file = reader.parse(Bytes(), "vmcore")
    assert [file.index.frame(position) for position in range(len(chosen))] == chosen
    assert [file.index.position(pfn) for pfn in chosen] == list(range(len(chosen)))


@pytest.mark.parametrize("ranges", [[(0, 1)], [(3, 5)], [(7, 9)], [(0, 64)], [(5, 60), (2, 3)], [(9, 9)]])
def test_a_bitmap_has_the_bits_of_its_ranges(ranges):
    found = RangeBitmaps(8, ranges).read_at(0, 8)
    wanted = {pfn for first, end in ranges for pfn in range(first, end)}
    assert {pfn for pfn in range(64) if found[pfn // 8] >> pfn % 8 & 1} == wanted


def elf_of_segments(claims):
    """An ELF dump whose segments have (address, size) of memory, and no byte of it."""
    note, start = dump_writer.vmcoreinfo_note(INFO), 64 + 56 * (len(claims) + 1)
    segment = struct.Struct("<IIQQQQQQ").pack
    table = segment(4, 0, start, 0, 0, len(note), len(note), 0)
    table += b"".join(segment(1, 7, start, 0, at, size, size, 0) for at, size in claims)
    head = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 4, 62, 1, 0, 64, 0, 0, 64, 56, len(claims) + 1, 0, 0, 0
    )
    return head + table + note


@pytest.mark.slow
def test_segments_that_claim_too_much_cost_little(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(elf_of_segments([(4096 * number, (8 << 40) - (4096 * 65536)) for number in range(60_000)]))
    tracemalloc.start()
    began = time.thread_time()
    beginning, memory = opened(path)
    size = sum(map(len, write_pages(beginning, memory, [3], tmp_path)))
    assert time.thread_time() - began < 20
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert size < 520 << 20


@pytest.mark.parametrize("blocks", [1 << 20, 1 << 30, (1 << 32) - 1])
def test_a_bitmap_that_is_larger_than_the_dump_is_refused(tmp_path, blocks):
    path = tmp_path / "vmcore"
    head = bytearray(dump_writer.kdump({3: page(3)}, INFO))
    struct.pack_into("<I", head, 436, blocks)
    path.write_bytes(head)
    with pytest.raises(DumpUnreadable, match="bitmap"):
        opened(path)
    with path.open("r+b") as file:
        file.truncate(1 << 43)
    if blocks > 1 << 20:
        with pytest.raises(DumpUnreadable, match="bitmap"):
            opened(path)


@pytest.mark.parametrize("base", ["99999999999999999999", "-99999999999999999999", "0x8000000000000000", "-4096"])
def test_any_phys_base_has_a_place(tmp_path, base):
    path = tmp_path / "vmcore"
    path.write_bytes(dump_writer.elf({3: page(3)}, INFO.replace(b"phys_base)=0", b"phys_base)=" + base.encode())))
    beginning, memory = opened(path)
    view = PageView(beginning, memory)
    (told,) = struct.unpack("<Q", view.read_at(4096, 8))
    assert told == int(base, 0) % (1 << 64)

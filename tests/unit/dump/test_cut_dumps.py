"""Dumps that are cut off: what is known to be lost, and that nobody reads it as zeros."""

import random
import struct

import dump_writer
import pytest

from sandbox.dump import identify, kernel_data, view
from sandbox.dump.kdump_lost import reads_as_zeros
from sandbox.dump.source import FileSource

INFO = (
    b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nNUMBER(phys_base)=0\n"
    b"SYMBOL(swapper_pg_dir)=ffffffff82000000\nSYMBOL(init_uts_ns)=ffffffff82001000\n"
)
PAGES = {pfn: random.Random(pfn).randbytes(4096) for pfn in (0x10, 0x2000, 0x2001, 0x3000, 0x3001)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vmcore"


@pytest.mark.parametrize("order", ["little", "big"])
def test_lost_pages_are_marked_in_the_view_of_a_kdump_file(path, order):
    whole = dump_writer.kdump(PAGES, INFO, codec=dump_writer.stored, order=order)
    # The end of the last page but one, and all of the last one.
    path.write_bytes(whole[:-4097])
    assert reads_as_zeros(identify(path))
    with FileSource(path) as file:
        opened = view.open_view(file, path.parent, marking=True)
        assert opened is not None
        seen = opened.read_at(0, opened.size)
        code = "<" if order == "little" else ">"
        changed = [at for at in range(len(seen)) if seen[at] != whole[at]]
        # One byte of two descriptors, in which zlib is noted for what was stored.
        assert len(changed) == 2
        assert changed[1] - changed[0] == 24
        for at in changed:
            start = at - 12 - (0 if order == "little" else 3)
            place, size, flags = struct.unpack_from(code + "qII", seen, start)
            assert (place + size > opened.size, size, flags) == (True, 4096, 1)
        for at in (*range(changed[0] - 30, changed[1] + 30), 0):
            assert opened.read_at(at, 7) == seen[at : at + 7]
        unmarked = view.open_view(file, path.parent)
        assert unmarked is not None
        assert unmarked.read_at(0, opened.size) == whole[:-4097]


@pytest.mark.parametrize("form", ["kdump", "elf"])
@pytest.mark.parametrize(("pages", "missing"), [(0, False), (1, False), (3, False), (4, True)])
def test_it_is_known_whether_the_kernels_data_is_in_what_is_left(path, form, pages, missing):
    if form == "kdump":
        whole = dump_writer.kdump(PAGES, INFO, codec=dump_writer.stored)
    else:
        whole = dump_writer.elf(PAGES, INFO)
    path.write_bytes(whole[: len(whole) - pages * 4096])
    found = identify(path)
    assert found.complete is (pages == 0)
    assert kernel_data.is_missing(found) is missing
    assert reads_as_zeros(found) is (pages > 0 and form == "kdump")

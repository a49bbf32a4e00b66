"""The salvage ladder, each rung with a dump that needs it: a genuine one whose pages are lost or overwritten."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from engines import EngineUnderTest


class Kdump:
    """A kdump-compressed file in memory. Layout: makedumpfile's diskdump_mod.h."""

    _INCOMPLETE = 8

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self._block, sub_header, bitmaps = struct.unpack_from("<iiI", self.data, 428)
        second = self._block * (1 + sub_header) + self._block * bitmaps // 2
        self._descriptors = self._block * (1 + sub_header + bitmaps)
        dumped = self.data[second : self._descriptors]
        self._pages = [byte * 8 + bit for byte, bits in enumerate(dumped) for bit in range(8) if bits >> bit & 1]

    def lose(self, part: float) -> None:
        """Leaves it as makedumpfile does when the disk is full: the last pages have descriptors of zeros."""
        for number in range(int(len(self._pages) * (1 - part)), len(self._pages)):
            struct.pack_into("<qIIQ", self.data, self._descriptors + 24 * number, 0, 0, 0, 0)
        self.data[424] |= self._INCOMPLETE

    def replace(self, physical: int, page: bytes) -> None:
        """Gives a page another content, uncompressed, at the end of the file."""
        number = self._pages.index(physical // self._block)
        struct.pack_into("<qIIQ", self.data, self._descriptors + 24 * number, len(self.data), len(page), 0, 0)
        self.data += page


@pytest.fixture
def dump(docker_engine: EngineUnderTest, dumps) -> Path:
    return dumps.copy_for(docker_engine, dumps())


def _overwrite(engine: EngineUnderTest, dump: Path, symbol: str) -> None:
    """Makes the pointer at a symbol lead nowhere, as a stray write of the dying kernel may have."""
    told = engine.run("run", str(dump), "--", f"vtop {symbol}").stdout.decode()
    found = re.search(r"(?m)^[0-9a-f]+ +([0-9a-f]+) *$", told)
    assert found is not None, told
    physical = int(found[1], 16)
    out = engine.directory()
    engine.run("run", str(dump), "--output", str(out), "--", f"rd -p -r page {physical & ~0xFFF:x} 4096")
    page = bytearray((out / "page").read_bytes())
    struct.pack_into("<Q", page, physical & 0xFFF, 0xDEAD4EAD00000000)
    engine.run("close", str(dump))
    kdump = Kdump(dump)
    kdump.replace(physical & ~0xFFF, bytes(page))
    dump.write_bytes(kdump.data)


def test_a_dump_without_its_last_pages(docker_engine: EngineUnderTest, dump: Path) -> None:
    kdump = Kdump(dump)
    kdump.lose(0.03)
    dump.write_bytes(kdump.data)
    done = docker_engine.run("run", str(dump), "--", "bt")
    assert b"sysrq_handle_crash" in done.stdout
    assert b"page incomplete" in done.stderr
    assert b"trying --zero_excluded" in done.stderr
    assert b"opened with --zero_excluded: pages that are missing read as zeros" in done.stderr
    # It is not tried again, and not said again.
    docker_engine.run("run", str(dump), "--", "!kill -KILL $PPID; sleep 5")
    again = docker_engine.run("run", str(dump), "--", "sys")
    assert b"[INCOMPLETE]" in again.stdout
    assert b"trying" not in again.stderr
    docker_engine.run("close", str(dump))


def test_a_dump_whose_list_of_modules_leads_nowhere(docker_engine: EngineUnderTest, dump: Path) -> None:
    _overwrite(docker_engine, dump, "modules")
    done = docker_engine.run("run", str(dump), "--image", "debian-12", "--", "bt")
    assert b"sysrq_handle_crash" in done.stdout, done.stderr
    assert b"opened with --no_modules: modules are not known" in done.stderr
    docker_engine.run("close", str(dump))


def test_a_dump_whose_memory_nodes_lead_nowhere(docker_engine: EngineUnderTest, dump: Path) -> None:
    _overwrite(docker_engine, dump, "node_data")
    # The image is chosen, so a newer crash is not tried before the last rung.
    done = docker_engine.run("run", str(dump), "--image", "debian-12", "--", "log | tail -3", "--", "bt")
    assert b"opened with --minimal: only log, dis, rd, sym, eval, set and exit work" in done.stderr
    assert b"Kernel panic" in docker_engine.run("run", str(dump), "--", "log").stdout
    assert b"bt: command not available in minimal mode" in done.stdout
    assert done.returncode == 1
    docker_engine.run("close", str(dump))

"""The salvage ladder with a dump that needs it: a genuine one whose last pages are lost."""

from __future__ import annotations

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


@pytest.fixture
def dump(docker_engine: EngineUnderTest, dumps) -> Path:
    return dumps.copy_for(docker_engine, dumps())


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

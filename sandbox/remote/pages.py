"""Pages of a dump on a server that were fetched, kept on the disk for every process that reads it.

A ring of slots in a file beside the description of the dump: the page that was fetched first goes first. Entries have
the CRC of their page, so that what a crash of the host left half written is fetched again and never read.

    head      magic, version of the dump, number of slots, count of all pages that were put so far
    entries   one for each slot: number, CRC and size of its page
    slots     page n of those that were put is in slot n modulo their number
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from sandbox.formats.streams import pread
from sandbox.host.files import write_all

PAGE: Final = 128 << 10
"""Bytes that are fetched at least."""

NAME: Final = "pages"

_MAGIC: Final = b"vmbox pages 1\n\0\0"
_HEAD: Final = struct.Struct("<16s16sqq")
_ENTRY: Final = struct.Struct("<qII")
_ALIGNED: Final = 4096
_RESERVE: Final = 512 << 20
"""Free space that is never used."""


class Pages:
    """The kept pages of one version of a dump. Another process may put pages, and overwrite old ones, at any time."""

    def __init__(self, place: Path, version: bytes, limit: int) -> None:
        """`version` is 16 bytes that name it; pages of another one in `place`, or too many, are thrown away."""
        self._place = place
        self._version = version
        self._slots = max(1, limit // PAGE)
        self._seen = 0
        self._slot_of: dict[int, int] = {}
        self._page_in: dict[int, int] = {}
        self._file = self._open()
        # What is not used for long is removed.
        os.utime(self._file)
        with self._locked(fcntl.LOCK_EX):
            head = self._head()
            if head is None:
                self._begin()
        if head is not None and head[1] == version and 0 < head[2] <= self._slots:
            # The server of a view may have another limit than the command that started it.
            self._slots = head[2]
        elif head is not None:
            # Not truncated: another process may read what is there.
            discard(place)
            self.close()
            self._file = self._open()
            self._begin()
        self._first = -(-(_HEAD.size + self._slots * _ENTRY.size) // _ALIGNED) * _ALIGNED

    def _open(self) -> int:
        return os.open(self._place / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _begin(self) -> None:
        os.pwrite(self._file, _HEAD.pack(_MAGIC, self._version, self._slots, 0), 0)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.flock(self._file, how)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _head(self) -> tuple[bytes, bytes, int, int] | None:
        head = pread(self._file, 0, _HEAD.size)
        found = _HEAD.unpack(head) if len(head) == _HEAD.size else None
        return found if found is not None and found[0] == _MAGIC else None

    def get(self, page: int) -> bytes | None:
        """The page; None where it is not kept, or not any more."""
        with self._locked(fcntl.LOCK_SH):
            self._refresh()
            slot = self._slot_of.get(page)
            if slot is None:
                return None
            _, crc, size = _ENTRY.unpack(pread(self._file, self._entry(slot), _ENTRY.size))
            data = pread(self._file, self._first + slot * PAGE, size)
        if len(data) == size and zlib.crc32(data) == crc:
            return data
        self._forget(slot)
        return None

    def put(self, page: int, data: bytes) -> None:
        """Keeps a page, if there is space. Raises nothing."""
        with suppress(OSError), self._locked(fcntl.LOCK_EX):
            self._refresh()
            if page in self._slot_of:
                return
            slot = self._seen % self._slots
            if self._seen < self._slots and shutil.disk_usage(self._place).free < _RESERVE:
                return
            os.lseek(self._file, self._first + slot * PAGE, os.SEEK_SET)
            write_all(self._file, data)
            os.pwrite(self._file, _ENTRY.pack(page, zlib.crc32(data), len(data)), self._entry(slot))
            os.pwrite(self._file, _HEAD.pack(_MAGIC, self._version, self._slots, self._seen + 1), 0)
            self._refresh()

    def _entry(self, slot: int) -> int:
        return _HEAD.size + slot * _ENTRY.size

    def _refresh(self) -> None:
        """Takes note of what was put since the last look."""
        head = self._head()
        count = 0 if head is None else head[3]
        for number in range(max(self._seen, count - self._slots), count):
            slot = number % self._slots
            self._forget(slot)
            raw = pread(self._file, self._entry(slot), _ENTRY.size)
            page = _ENTRY.unpack(raw)[0] if len(raw) == _ENTRY.size else -1
            self._slot_of[page], self._page_in[slot] = slot, page
        self._seen = max(self._seen, count)

    def _forget(self, slot: int) -> None:
        page = self._page_in.pop(slot, None)
        if page is not None and self._slot_of.get(page) == slot:
            del self._slot_of[page]

    def close(self) -> None:
        os.close(self._file)


def discard(place: Path) -> None:
    """Removes the kept pages; a process that has them open keeps them until it ends."""
    with suppress(OSError):
        (place / NAME).unlink(missing_ok=True)


def used(place: Path) -> int:
    """Bytes on the disk."""
    try:
        return (place / NAME).lstat().st_blocks * 512
    except OSError:
        return 0

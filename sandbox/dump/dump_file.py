"""What a format whose memory is read answers of a file. The reader and all above it know this, and no format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sandbox.dump.header import Header, Memory
from sandbox.model import Vmcore


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which pages of the machine one file of a split set holds. Every number comes from the file."""

    start_pfn: int
    end_pfn: int
    """The first page that is not in it."""
    max_pfn: int
    """`end_pfn` of the last file of the set."""
    page_size: int
    header_size: int
    """Bytes that all files of the set begin with alike."""

    def covers(self, address: int) -> bool:
        return self.start_pfn <= address // self.page_size < self.end_pfn


class DumpFile(Protocol):
    """One file, or the bytes of a flattened one in order. Made by the `parse` of its format, without a look at memory.

    Every method may raise `DeadlineExceeded`.
    """

    @property
    def header(self) -> Header:
        """What header and notes say; the caller may correct it by what the memory says."""

    @property
    def part(self) -> Part | None:
        """None where the file is not one of a split set."""

    @property
    def stores_text_as_is(self) -> bool:
        """Whether `find_vmcoreinfo` just reads on: then it is asked also where the log is not wanted."""

    @property
    def slow_to_measure(self) -> bool:
        """Whether `missing` takes longer than an answer from the header alone may."""

    def memory(self) -> Memory:
        """The machine's memory, or this file's part of it; always the same object."""

    def missing(self) -> str | None:
        """Why the file is incomplete by its size, in words; None when it is whole. Its size must be known."""

    def find_vmcoreinfo(self) -> bytes:
        """The kernel's own copy of its VMCOREINFO, for dumps without the note. Empty when it is not found."""

    def additions(self, vmcore: Vmcore, end: int, /) -> Iterator[tuple[int, bytes]]:
        """(place, bytes) to write into a copy that ends at `end`, so that it says of its kernel what `vmcore` knows.

        Nothing where it says so already, or where the format has no place for it.
        """

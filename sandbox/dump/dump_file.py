"""The interface of a format whose memory is read. The reader and all above it know this interface, and no format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sandbox.dump.header import Header, Memory
from sandbox.dump.kdump_writer import Beginning
from sandbox.model import Vmcore

if TYPE_CHECKING:
    from sandbox.dump.header_only import ScanResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The pages that one file of a split set contains. Every number comes from the file."""

    start_pfn: int
    end_pfn: int
    """The first page after the file's last."""
    max_pfn: int
    """`end_pfn` of the last file of the set."""
    page_size: int
    header_size: int
    """Bytes at the beginning that are the same in all files of the set."""

    def covers(self, address: int) -> bool:
        return self.start_pfn <= address // self.page_size < self.end_pfn


class DumpFile(Protocol):
    """One file, or the rearranged bytes of a flattened one. Made by the `parse` of its format, which reads no memory.

    Every method may raise `DeadlineExceeded`.
    """

    @property
    def header(self) -> Header:
        """Facts from header and notes; the caller may correct them from memory."""

    @property
    def part(self) -> Part | None:
        """None if the file is not part of a split set."""

    @property
    def stores_text_as_is(self) -> bool:
        """Whether `search` needs no decompression: then it is called even if the log is not wanted."""

    @property
    def slow_to_measure(self) -> bool:
        """Whether `missing` is too slow for an answer from the header alone."""

    def memory(self) -> Memory:
        """The machine's memory, or this file's part of it; always the same object."""

    def missing(self) -> str | None:
        """Why the file is incomplete by its size, in words; None if it is complete. The size must be known."""

    def search(self, *, thorough: bool = False) -> ScanResult:
        """What the file's memory says without page tables, for dumps without the note: the kernel's own copy of its
        VMCOREINFO or, where there is none and the header does not name the kernel, its utsname. For a second or two;
        `thorough` searches all of memory.
        """

    def additions(self, vmcore: Vmcore, end: int, /) -> Iterator[tuple[int, bytes]]:
        """(place, bytes) to write into a copy that ends at `end`, to add the facts of `vmcore` that the file lacks.

        Nothing if it has them, or if the format has no place for them.
        """

    def as_kdump(self, vmcore: Vmcore, /) -> Beginning | None:
        """What a kdump-compressed file of the same pages begins with; None where that form has no place for it."""

"""The result of each format's reader: facts of the header, and an interface to the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from sandbox.formats.notes import ByteOrder
from sandbox.model import DumpFormat, PageCompression


class PageMissingError(Exception):
    """A page was filtered out by the writer, or was lost. Caught inside this package."""


class SearchGivenUpError(Exception):
    """A search of memory has taken its time; the message says how much was searched. Caught inside this package."""


class Memory(Protocol):
    """Physical memory of the crashed machine."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly `size` bytes from physical `address`. Raises `PageMissingError`."""


@dataclass(slots=True, kw_only=True)
class Header:
    """Facts from one dump's header and notes; no memory has been read yet."""

    format: DumpFormat
    order: ByteOrder = "little"
    bits: int = 64
    arch: str | None = None
    arch_origin: str = "header"
    release: str | None = None
    utsname_version: str | None = None
    nr_cpus: int | None = None
    nr_cpus_origin: str = "header"
    timestamp: int | None = None
    """Seconds since 1970."""
    page_size: int | None = None
    dump_level: int | None = None
    compression: PageCompression | None = None
    vmcoreinfo: bytes = b""
    phys_base: int | None = None
    panic: str | None = None
    excerpt: str | None = None
    """What `vmbox excerpt` says of it in the file that it made."""
    flag: str | None = None
    """Why the writer itself called the dump incomplete."""


MACHINES: Final = frozenset(
    {
        *("x86_64", "i386", "i486", "i586", "i686", "aarch64", "armv5tel", "armv6l", "armv7l", "armv8l"),
        *("ppc", "ppc64", "ppc64le", "s390", "s390x", "riscv32", "riscv64", "loongarch64"),
        *("mips", "mips64", "armv7b", "ia64", "sparc64", "alpha", "parisc64"),
    }
)
"""What `uname -m` prints on the machines Linux crash dumps come from."""

"""Recognizes the first bytes of files: a dump format, a wrapper, or something else.

Each entry names where the number comes from: crash (its headers), file(1)'s magic, or the format's own description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sandbox.formats.streams import Source
from sandbox.model import DumpFormat, Wrapper

_Kind = TypeVar("_Kind", bound=str)

PEEK: Final = 1024
"""Bytes that tell every format here apart (the mark of a kernel image is at 514)."""


@dataclass(frozen=True, slots=True)
class _Magic(Generic[_Kind]):
    """Bytes at an offset, and what they show."""

    kind: _Kind
    content: bytes
    offset: int = 0


_DUMPS: Final = (
    _Magic(DumpFormat.KDUMP, b"KDUMP   "),
    _Magic(DumpFormat.DISKDUMP, b"DISKDUMP"),
    _Magic(DumpFormat.FLATTENED, b"makedumpfile\0\0\0\0"),
    _Magic(DumpFormat.ELF, b"\x7fELF"),
    _Magic(DumpFormat.QEMU_MIGRATION, b"QEVM"),
    _Magic(DumpFormat.LIBVIRT_SAVE, b"LibvirtQemudSave"),
    _Magic(DumpFormat.LIBVIRT_SAVE, b"LibvirtQemudPart"),
    _Magic(DumpFormat.XEN, b"LinuxGuestRecord"),
    _Magic(DumpFormat.XEN, b"\xed\xeb\x0f\xf0"),
    _Magic(DumpFormat.XEN, b"\xee\xeb\x0f\xf0"),
    _Magic(DumpFormat.SADUMP, b"sadump\0\0"),
    _Magic(DumpFormat.SADUMP, b"sadump\0\0", 4096),
    _Magic(DumpFormat.S390, bytes.fromhex("a8190173618f23fd")),
    _Magic(DumpFormat.LKCD, bytes.fromhex("a8190173618f23ed")),
    _Magic(DumpFormat.LKCD, bytes.fromhex("ed238f61730119a8")),
    _Magic(DumpFormat.LKCD, bytes.fromhex("a8190173618f23cd")),
    _Magic(DumpFormat.LKCD, bytes.fromhex("cd238f61730119a8")),
    _Magic(DumpFormat.MCLX, bytes.fromhex("ddcc8b9a")),
    *(
        _Magic(DumpFormat.VMWARE, bytes((0xD0 | low, high, 0xD0 | low, 0xBE)))
        for low, high in ((0, 0xBE), (2, 0xBE), (3, 0xBE))
    ),
    *(_Magic(DumpFormat.VMWARE, bytes((0xD0 | low, 0xBA, 0xD0 | low, 0xBA))) for low in (1, 2)),
)

_WRAPPERS: Final = (
    _Magic(Wrapper.GZ, b"\x1f\x8b"),
    _Magic(Wrapper.BZ2, b"BZh"),
    _Magic(Wrapper.XZ, b"\xfd7zXZ\0"),
    _Magic(Wrapper.ZST, b"\x28\xb5\x2f\xfd"),
    _Magic(Wrapper.ZST, b"\x50\x2a\x4d\x18\4\0\0\0"),  # pzstd: the size of each frame in a skippable one before it
    _Magic(Wrapper.LZ4, b"\x04\x22\x4d\x18"),
    _Magic(Wrapper.LZOP, b"\x89LZO\0\r\n\x1a\n"),
    _Magic(Wrapper.ZIP, b"PK\x03\x04"),
    _Magic(Wrapper.SEVENZIP, b"7z\xbc\xaf\x27\x1c"),
    _Magic(Wrapper.RAR, b"Rar!\x1a\x07"),
    _Magic(Wrapper.TAR, b"ustar", 257),
    _Magic(Wrapper.CPIO, b"070701"),
    _Magic(Wrapper.CPIO, b"070702"),
)

_OTHERS: Final = (
    _Magic("a JPEG image", b"\xff\xd8\xff"),
    _Magic("a PNG image", b"\x89PNG\r\n\x1a\n"),
    _Magic("a GIF image", b"GIF8"),
    _Magic("a PDF document", b"%PDF-"),
    _Magic("a Windows crash dump", b"PAGEDU64"),
    _Magic("a Windows crash dump", b"PAGEDUMP"),
    _Magic("a Windows minidump", b"MDMP"),
    _Magic("a LiME memory image", b"EMiL"),
    _Magic("an AVML memory image", b"AVML"),
    _Magic("a QEMU disk image", b"QFI\xfb"),
    _Magic("a VMware disk image", b"KDMV"),
    _Magic("a Hyper-V disk image", b"vhdxfile"),
    _Magic("a Hyper-V disk image", b"conectix"),
    _Magic("a VirtualBox disk image", b"\x7f\x10\xda\xbe", 64),
    _Magic("a disk's image", b"EFI PART", 512),
    _Magic("an image of an XFS file system", b"XFSB"),
    _Magic("an image of a squashfs file system", b"hsqs"),
    _Magic("text in base64", b"S0RVTVAg"),
    _Magic("text in base64", b"f0VMR"),
    _Magic("text in base64", b"bWFrZWR1bXBmaWxl"),
    _Magic("a file that lzma packed", b"\x5d\0\0"),
    _Magic("a file that lzip packed", b"LZIP\x01"),
    _Magic("a file that compress packed", b"\x1f\x9d"),
    _Magic("a file that snappy packed", b"\xff\x06\0\0sNaPpY"),
    _Magic("a FreeBSD crash dump", b"FreeBSD Kernel Dump"),
    _Magic("a FreeBSD crash dump", b"minidump FreeBSD"),
    _Magic("a recording of perf", b"PERFILE2"),
    _Magic("an RPM package", b"\xed\xab\xee\xdb"),
    _Magic("a Debian package or ar archive", b"!<arch>\n"),
    _Magic("a compressed kernel image (bzImage)", b"HdrS", 0x202),
    _Magic("a Windows program", b"MZ"),
    _Magic("a script", b"#!"),
    _Magic("an HTML page", b"<!DOCTYPE"),
    _Magic("an HTML page", b"<html"),
    _Magic("an SQLite database", b"SQLite format 3\0"),
    _Magic("a GPG-encrypted file", b"-----BEGIN PGP"),
    _Magic("a file that OpenSSL encrypted", b"Salted__"),
    _Magic("a file that age encrypted", b"age-encryption.org/"),
    _Magic("a LUKS volume", b"LUKS\xba\xbe"),
    _Magic("the first part of a zip archive in parts", b"PK\x07\x08"),
    _Magic("an apport report", b"ProblemType:"),
)

_HINTS: Final = {
    "a Windows crash dump": "WinDbg or volatility reads it",
    "a Windows minidump": "WinDbg reads it",
    "a LiME memory image": "volatility reads raw memory; crash can be tried by hand: crash vmlinux FILE@ADDRESS",
    "an AVML memory image": "volatility reads it; avml-convert FILE FILE.raw makes raw memory of it",
    "a file that OpenSSL encrypted": "decrypt it first, as it was encrypted: openssl enc -d … -in FILE -out vmcore",
    "a file that age encrypted": "decrypt it first: age --decrypt -o vmcore FILE",
    "a LUKS volume": "open it first: sudo cryptsetup open --readonly FILE NAME",
    "the first part of a zip archive in parts": "join the parts first: zip -s 0 ARCHIVE.zip --out whole.zip",
    **dict.fromkeys(
        (
            "a QEMU disk image",
            "a VMware disk image",
            "a Hyper-V disk image",
            "a VirtualBox disk image",
            "a disk's image",
        ),
        "the dump may be inside: guestmount -a FILE -i --ro /mnt, then look in /mnt/var/crash",
    ),
    **dict.fromkeys(
        ("an image of an XFS file system", "an image of a squashfs file system"),
        "the dump may be inside: sudo mount -o ro,loop FILE /mnt, then look in /mnt/var/crash",
    ),
    "text in base64": "decode it first: base64 -d FILE > vmcore",
    "a file that lzma packed": "unpack it first: lzma -dc FILE > vmcore",
    "a file that lzip packed": "unpack it first: lzip -dc FILE > vmcore",
    "a file that compress packed": "unpack it first: gzip -dc FILE > vmcore",
    "a file that snappy packed": "unpack it first: snzip -dc FILE > vmcore",
    "a FreeBSD crash dump": "kgdb reads it, with that kernel",
    "a recording of perf": "perf reads it: perf report -i FILE",
    "a GPG-encrypted file": "decrypt it first: gpg --output vmcore --decrypt FILE",
    "an apport report": "unpack it first: apport-unpack FILE DIRECTORY, then give DIRECTORY/VmCore",
    "an HTML page": "the download gave an error page instead of the dump; open it and fetch the dump again",
}

_ET_CORE: Final = (b"\x04\0", b"\0\x04")
_E_PHNUM, _E_SHNUM = slice(56, 58), slice(60, 62)
"""In the header of a 64-bit ELF file."""


def dump_format(head: bytes) -> DumpFormat | None:
    kind = _match(_DUMPS, head)
    return DumpFormat.XEN if kind is DumpFormat.ELF and _is_of_xen(head) else kind


def _is_of_xen(head: bytes) -> bool:
    """Whether `xl dump-core` wrote it: a core that has its pages in sections, and no segments (libxc's xc_core.c)."""
    return head[4:5] == b"\2" and head[16:18] in _ET_CORE and not any(head[_E_PHNUM]) and any(head[_E_SHNUM])


def dump_format_of(source: Source) -> DumpFormat | None:
    """The same of a file, whose mark may also stand behind its first 4 KiB."""
    return dump_format(source.read_at(0, PEEK)) or dump_format(source.read_at(4096, 8).rjust(4104, b"\0"))


def is_dump(head: bytes) -> bool:
    """Whether a file that begins so is a dump: of ELF files the cores, and no programs or modules."""
    kind = dump_format(head)
    return kind is not None and (kind is not DumpFormat.ELF or head[16:18] in _ET_CORE)


def wrapper(head: bytes) -> Wrapper | None:
    return _match(_WRAPPERS, head)


def foreign(head: bytes) -> tuple[str, str | None] | None:
    """(what a file is that is no dump, what to do about it), in words."""
    kind = _match(_OTHERS, head)
    if kind is None and _is_openpgp(head):
        kind = "a GPG-encrypted file"
    return None if kind is None else (kind, _HINTS.get(kind))


def _is_openpgp(head: bytes) -> bool:
    """Whether a binary OpenPGP message begins so: with an encrypted session key (RFC 9580, sections 4.2, 5.1, 5.3).

    gpg -c writes packets of type 3, gpg -e of type 1; each in the old or the new form of its header.
    """
    if len(head) < 8:
        return False
    first = head[0]
    kind = first >> 2 & 15 if first & 0xC0 == 0x80 else first & 63
    if first < 0x80 or kind not in {1, 3}:
        return False
    lengths = {0: 1, 1: 2, 2: 4}.get(first & 3, 0) if first & 0xC0 == 0x80 else 1
    size = int.from_bytes(head[1 : 1 + lengths], "big")
    version, cipher = head[1 + lengths], head[2 + lengths]
    if kind == 3:
        return version in {4, 5, 6} and 4 <= size <= 64 and 0 < cipher <= 13
    return version in {3, 6} and 40 <= size <= 1200


def is_text(head: bytes) -> bool:
    """Whether it can be a log: printable, except for a few bytes that drivers print."""
    if not head:
        return False
    odd = sum(byte < 0x20 and byte not in b"\t\n\r\x1b\f" for byte in head)
    return odd * 50 <= len(head)


def _match(table: tuple[_Magic[_Kind], ...], head: bytes) -> _Kind | None:
    return next((magic.kind for magic in table if head.startswith(magic.content, magic.offset)), None)

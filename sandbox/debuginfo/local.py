"""Debuginfo that is on this host already: named by the user, or beside the dump."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sandbox.dump import magic
from sandbox.errors import DebuginfoNotFound
from sandbox.formats.compressions import COMPRESSIONS, decompressed
from sandbox.formats.streams import CorruptData, FileStream, UnsupportedFormat
from sandbox.host.paths import CACHE_TAG
from sandbox.model import DebuginfoFormat

_VMLINUX: Final = re.compile(r"vmlinux(-.*)?(\.debug)?(\.(gz|bz2|xz|lzma|zst|lz4))?")
_PACKAGE: Final = re.compile(r".*(-dbg|-dbgsym|-debuginfo)[-_].*\.(deb|ddeb|rpm)")
_ELF: Final = b"\x7fELF"
_TAR_MARK: Final = 257
"""Where the mark of a tar archive is in its first header."""
_DEPTH: Final = 12
_WANTED: Final = "give a vmlinux with debug information, a .deb or .rpm of it, or a directory with one"
"""The hint for what is none, whether it is given with --debuginfo or added."""
_MANY_FILES: Final = 200_000


def kind(path: Path) -> DebuginfoFormat:
    """The format of a file, below its compression. Raises `DebuginfoNotFound` if it can contain no vmlinux."""
    try:
        # A FIFO would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DebuginfoNotFound(f"{path} is not a regular file", hint="check the path")
            head = file.read(magic.PEEK)
    except FileNotFoundError:
        hint = "check the path"
        if "~" in path.parts:
            hint = "the shell expands ~ only where a word begins: --debuginfo ~/FILE, without ="
        raise DebuginfoNotFound(f"{path}: no such file", hint=hint) from None
    except OSError as error:
        raise DebuginfoNotFound(f"{path}: {error.strerror}", hint="check the path") from None
    if head[:4] == _ELF:
        return DebuginfoFormat.VMLINUX
    if head[:8] == b"!<arch>\n":
        return DebuginfoFormat.DEB
    if head[:4] == b"\xed\xab\xee\xdb":
        return DebuginfoFormat.RPM
    if (packing := _packing(head)) is not None:
        return _kind_below(path, packing)
    if head[:2] == b"MZ":
        raise DebuginfoNotFound(
            f"{path} is a bootable kernel image (vmlinuz), which has no debug information",
            hint=_WANTED,
        )
    raise DebuginfoNotFound(
        f"{path}: neither a vmlinux nor a package",
        hint=_WANTED,
    )


def compression(path: Path) -> str:
    """The compression around a vmlinux, by the first bytes, as `decompressed` takes it; "none" for a plain one.

    SUSE has vmlinux.gz, vmlinux.xz and vmlinux.zst beside the kernel. Raises OSError.
    """
    with path.open("rb") as file:
        return _packing(file.read(magic.PEEK)) or "none"


def _packing(head: bytes) -> str | None:
    return COMPRESSIONS.get(magic.wrapper(head) or "")


def _kind_below(path: Path, packing: str) -> DebuginfoFormat:
    try:
        with FileStream(path) as packed:
            head = decompressed(packed, packing).read(_TAR_MARK + 5)
    except (CorruptData, UnsupportedFormat) as error:
        raise DebuginfoNotFound(f"{path}: {error}", hint="get it again; it may have been copied in part") from None
    if head[:4] == _ELF:
        return DebuginfoFormat.VMLINUX
    if head[_TAR_MARK:] == b"ustar":
        raise DebuginfoNotFound(
            f"{path} is an archive", hint="unpack it first: tar xf FILE; the directory can be given, too"
        )
    raise DebuginfoNotFound(
        f"{path}: what is compressed there ({packing}) is no vmlinux",
        hint=_WANTED,
    )


def _below(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """The directories to look in, each with its files: not for ever, and not in a cache, where other kernels' are."""
    seen = 0
    for parent, directories, files in os.walk(directory):
        directories.sort()
        if CACHE_TAG in files and Path(parent) != directory:
            directories.clear()
            continue
        if len(Path(parent).relative_to(directory).parts) >= _DEPTH or seen > _MANY_FILES:
            directories.clear()
        seen += len(files)
        yield parent, files


def candidates(directory: Path, release: str | None) -> Iterator[Path]:
    """Files under `directory` that may be or hold vmlinux: plain ones first, those named after the release first."""
    found: list[tuple[bool, bool, str]] = []
    for parent, files in _below(directory):
        for name in files:
            plain = _VMLINUX.fullmatch(name) is not None
            if plain or _PACKAGE.fullmatch(name):
                path = str(Path(parent) / name)
                if os.path.isfile(path):  # noqa: PTH113 - of up to 200,000
                    found.append((not plain, release is None or release not in path, path))
    for _, _, path in sorted(found):
        yield Path(path)


def beside(dump: Path, release: str | None) -> Iterator[Path]:
    """What lies in the dump's own directory and looks like its debuginfo: regular files, and links.

    Links are for the caller to refuse in words: who made the directory chose where they lead.
    """
    try:
        names = sorted(path.name for path in dump.parent.iterdir())
    except OSError:
        return
    plain = {"vmlinux", f"vmlinux-{release}", f"vmlinux-{release}.debug"}
    wanted = plain | {f"{name}.{suffix}" for name in plain for suffix in COMPRESSIONS}
    for name in names:
        path = dump.parent / name
        if (path.is_symlink() or path.is_file()) and (
            name in wanted or (release is not None and release in name and _PACKAGE.fullmatch(name))
        ):
            yield path


def modules(directory: Path) -> Iterator[Path]:
    """Module files under `directory`; no links, since the directory may be that of a dump."""
    for parent, files in _below(directory):
        for name in sorted(files):
            path = Path(parent) / name
            if name.endswith((".ko", ".ko.debug")) and stat.S_ISREG(path.lstat().st_mode):
                yield path

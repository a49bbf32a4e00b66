"""vmlinux out of a package: of one read from its start, or of one read where it lies."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.debuginfo import elf, slim
from sandbox.debuginfo.archive import deb_data, tar_members
from sandbox.debuginfo.ranged import Blocks, BlockStream, RemoteFile, RemoteStream
from sandbox.debuginfo.store import need_space, no_space
from sandbox.debuginfo.stream import PIECE, Damaged, Limited, Skippable, Stream, decompressed, write_all
from sandbox.debuginfo.xz import NotSeekable
from sandbox.progress import Step


class NoVmlinux(Damaged):
    """The package is whole, and holds no vmlinux."""


def extract(kind: str, package: Skippable, patterns: Sequence[re.Pattern[str]], directory: Path) -> None:
    """Makes `directory`/vmlinux of a package (`kind`: deb) read from its start; reads no further than it must.

    Raises `Damaged`, `NoVmlinux`, `NoSpace`.
    """
    whole = directory / "whole"
    if kind == "deb":
        _extract_deb(package, patterns, whole)
    else:
        raise Damaged(f"{kind} packages are not known here")
    keep(whole, directory / "vmlinux")


def keep(whole: Path, target: Path) -> None:
    """`whole` becomes `target`, without what crash does not need."""
    file = slim.LocalFile(whole)
    if (what := slim.plan(file)) is None:
        whole.rename(target)
    else:
        slim.copy(file, target, what)
        whole.unlink()


def extract_ranged(
    file: RemoteFile,
    patterns: Sequence[re.Pattern[str]],
    directory: Path,
    *,
    check: Callable[[str | None], None],
    step: Step,
) -> None:
    """The same of a .deb that is read where it lies: only blocks that hold what is kept of vmlinux.

    `check` gets the build-id before the bulk is fetched, and may raise. Raises `NoRanges`, `NotSeekable`, `Damaged`,
    `NoVmlinux`, `NoSpace`, `DownloadFailed`, `VerificationFailed`.
    """
    kind, data = deb_data(RemoteStream(file))
    if kind != "xz":
        raise NotSeekable(f"it is compressed with {kind}")
    with contextlib.closing(Blocks(file, data.offset, data.size)) as blocks:
        stream = BlockStream(blocks)
        for member in tar_members(stream):
            if is_vmlinux(member.path, patterns) and member.regular:
                vmlinux = slim.Part(blocks, stream.at, member.size)
                try:
                    check(elf.parse(vmlinux.read_at).build_id)
                except elf.NotElf as error:
                    raise Damaged(f"its vmlinux is {error}") from None
                what = slim.plan(vmlinux)
                step.total(file.fetched + blocks.cost(stream.at, member.size if what is None else what.cut))
                slim.copy(vmlinux, directory / "vmlinux", what)
                return
            stream.skip(member.size)
    raise NoVmlinux("there is no vmlinux in it")


def _extract_deb(package: Skippable, patterns: Sequence[re.Pattern[str]], target: Path) -> None:
    kind, member = deb_data(package)
    stream = decompressed(Limited(package, member.size), kind)
    for file in tar_members(stream):
        if is_vmlinux(file.path, patterns) and file.regular:
            _write(stream, file.size, target)
            return
        stream.skip(file.size)
    raise NoVmlinux("there is no vmlinux in it")


def is_vmlinux(path: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.match(path) for pattern in patterns)


def _write(stream: Stream, size: int, target: Path) -> None:
    """The next `size` bytes of `stream`, as a file of its own."""
    need_space(target.parent, size, "vmlinux")
    left = size
    try:
        with target.open("wb", buffering=0) as out:
            while left:
                data = stream.read(min(left, PIECE))
                if not data:
                    raise Damaged("it ends too early")
                write_all(out, data)
                left -= len(data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(target.parent, "vmlinux") from None
        raise

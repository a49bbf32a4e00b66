"""vmlinux out of a package, read from its start."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from sandbox.debuginfo.archive import deb_data, tar_members
from sandbox.debuginfo.store import need_space, no_space
from sandbox.debuginfo.stream import PIECE, Damaged, Skippable, Stream, decompressed


class NoVmlinux(Damaged):
    """The package is whole, and holds no vmlinux."""


def extract_deb(package: Skippable, patterns: Sequence[re.Pattern[str]], target: Path) -> str:
    """Writes vmlinux of a .deb to `target` and reads no further; its path in the package.

    Raises `Damaged`, `NoVmlinux`, `NoSpace`.
    """
    kind, data, _ = deb_data(package)
    stream = decompressed(data, kind)
    for member in tar_members(stream):
        if is_vmlinux(member.path, patterns) and member.regular:
            write(stream, member.size, target)
            return member.path
        stream.skip(member.size)
    raise NoVmlinux("there is no vmlinux in it")


def is_vmlinux(path: str, patterns: Sequence[re.Pattern[str]]) -> bool:
    return any(pattern.match(path) for pattern in patterns)


def write(stream: Stream, size: int, target: Path) -> None:
    """The next `size` bytes of `stream`, as a file of its own."""
    need_space(target.parent, size, "vmlinux")
    left = size
    try:
        with target.open("wb", buffering=0) as out:
            while left:
                data = stream.read(min(left, PIECE))
                if not data:
                    raise Damaged("it ends too early")
                out.write(data)
                left -= len(data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(target.parent, "vmlinux") from None
        raise

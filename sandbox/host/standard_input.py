"""Standard input as a file: dumps and logs are read at any place, which a pipe cannot be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandbox.errors import UsageError, called, unwritable
from sandbox.host.tempdirs import scratch_directory

LONGEST: Final = 1 << 30
"""Bytes of a pipe that are kept for as long as the command runs."""

NAME: Final = "standard-input"
"""Of the copy."""

_PIECE: Final = 1 << 20


@contextmanager
def as_file(*, longest: int = LONGEST) -> Iterator[Path]:
    """Yield the file that standard input is, or a temporary copy of what comes from a pipe.

    Raises `UsageError` for a terminal and for a pipe of more than `longest` bytes, and `NoSpace`.
    """
    try:
        kind = os.fstat(0)
    except OSError as error:
        raise UsageError("standard input is closed", hint="give a file, or pipe something in") from error
    if os.isatty(0):
        raise UsageError("standard input is a terminal", hint="give a file, or pipe something in: dmesg | vmbox info -")
    if stat.S_ISREG(kind.st_mode):
        # By its own name, where it still has one, so that what is beside a dump is found.
        named = Path("/proc/self/fd/0").readlink()
        same = named.exists() and os.path.samestat(named.stat(), kind)
        yield named if same else Path("/dev/stdin")
        return
    with scratch_directory() as directory:
        copy = directory / NAME
        try:
            _copy(copy, longest)
        except OSError as error:
            raise unwritable(copy, error, hint="choose another place with $VMBOX_CACHE_DIR", setting=True) from error
        with called(copy, lambda: "standard input"):
            yield copy


def _copy(copy: Path, longest: int) -> None:
    left = longest
    with copy.open("wb") as file:
        while piece := os.read(0, _PIECE):
            left -= len(piece)
            if left < 0:
                raise UsageError(
                    f"standard input has more than {longest >> 20} MiB", hint="save it to a file, and give that"
                )
            file.write(piece)

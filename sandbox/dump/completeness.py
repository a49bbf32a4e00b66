"""Judges from outside a dump whether it is complete. Each format compares the size with its own structure.

None of crash, drgn, makedumpfile and libkdumpfile does this for kdump-compressed files. In a copy that broke off, the
writer's flag is clear, and only the size shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sandbox.formats.streams import Source

_NAMES: Final = ("vmcore-incomplete", "dump-incomplete", "vmcore-dmesg-incomplete")


def of_name(path: Path) -> str | None:
    """Why the dump is incomplete, by its name: kdump writes under a temporary name until it is done."""
    name = path.name
    if name.startswith(_NAMES) or name.endswith((".incomplete", "-incomplete")):
        return f"its name is {name}, which kdump gives a dump until it is written"
    return None


def of_xz(source: Source) -> str | None:
    """Why an xz file is incomplete: it must end with its own mark, so nothing has to be unpacked."""
    size = source.size
    if size is None or source.read_at(size - 512, 512).rstrip(b"\0").endswith(b"YZ"):
        return None
    return f"cut off: the xz file ends after {size} bytes without its end mark"


def is_cut(reason: str | None) -> bool:
    """Whether a dump is incomplete because its file ends too early, as `cut_off` and the formats say it."""
    return reason is not None and "cut off" in reason


def cut_off(size: int, need: int, where: str) -> str:
    """The reason in words: only `size` of at least `need` bytes are there."""
    return f"cut off {where}: {size} of at least {need} bytes are there, {need - size} are missing"

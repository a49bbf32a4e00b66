"""Whether a dump is all there, by what is outside of it; its size against its own structure is its format's to judge.

None of crash, drgn, makedumpfile and libkdumpfile says so for kdump-compressed files; a copy that broke off leaves the
writer's flag clear, and only the size tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sandbox.formats.streams import Source

_NAMES: Final = ("vmcore-incomplete", "dump-incomplete", "vmcore-dmesg-incomplete")


def of_name(path: Path) -> str | None:
    """kdump writes under another name until it is done, so a name that is still that one tells."""
    name = path.name
    if name.startswith(_NAMES) or name.endswith((".incomplete", "-incomplete")):
        return f"its name is {name}, which kdump gives a dump until it is written"
    return None


def of_xz(source: Source) -> str | None:
    """An xz file ends with a mark of its own, so that a cut one is known without unpacking it."""
    size = source.size
    if size is None or source.read_at(size - 512, 512).rstrip(b"\0").endswith(b"YZ"):
        return None
    return f"cut off: the xz file ends after {size} bytes without its end mark"


def cut_off(size: int, need: int, where: str) -> str:
    """In words: `size` bytes of at least `need` are there."""
    return f"cut off {where}: {size} of at least {need} bytes are there, {need - size} are missing"

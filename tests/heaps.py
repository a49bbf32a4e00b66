"""A heap of dumps for a triage."""

from __future__ import annotations

import shutil
from pathlib import Path

DUMPS = Path(__file__).parent / "fixtures" / "dumps"


def make(heap: Path) -> Path:
    """Genuine dumps, shrunk; one of them cut off, and files that are no dumps."""
    for number, name in enumerate(("x86_64-6.1-zlib", "x86_64-6.12-zstd")):
        below = heap / f"host{number}"
        below.mkdir(parents=True)
        shutil.copy(DUMPS / name, below / "vmcore")
        (below / "vmcore-dmesg.txt").write_text("[ 0.0] Linux version\n")
    (heap / "vmcore.empty").touch()
    (heap / "vmcore.cut").write_bytes((DUMPS / "x86_64-6.1-zlib").read_bytes()[:3000])
    (heap / "notes").write_text("nothing")
    return heap

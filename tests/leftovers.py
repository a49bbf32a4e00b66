"""What a run of the tests has left on the host: processes, mounts, and files outside of its cache."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MARK: Final = "TESTS_OF_VMBOX"
"""An environment variable that all processes of a run inherit."""
MARKED: Final = {MARK: os.environ.setdefault(MARK, uuid.uuid4().hex)}
"""For environments that are not inherited."""

_SECONDS: Final = 20.0
"""In which engines and gpg's agents end after the tests."""


def look() -> frozenset[str]:
    """What is there now, in words."""
    return frozenset([*_processes(), *_mounts(), *_files()])


def since(before: frozenset[str]) -> list[str]:
    """What is there and was not; what ends by itself is waited for."""
    deadline = time.monotonic() + _SECONDS
    while (left := look() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    return sorted(left)


def _processes() -> Iterator[str]:
    mark = f"{MARK}={MARKED[MARK]}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if int(place.name) != os.getpid() and mark in (place / "environ").read_bytes().split(b"\0"):
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"process {place.name}: {command[:300]}"
        except OSError:
            continue  # it has ended, or is another user's


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        target = line.split()[4]
        if "vmbox" in target or " - nsfs " in line:
            yield f"mount {target}"


def _files() -> Iterator[str]:
    for directory in {Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"), Path("/run")}:
        yield from (f"file {path}" for path in directory.glob("*vmbox*"))

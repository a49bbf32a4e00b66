"""A directory in place of a dump: what kdump left under /var/crash, or an unpacked sosreport."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.dump import magic
from sandbox.dump.source import FileSource
from sandbox.errors import DumpUnreadable, NotADump, VmboxError

_MOST_ENTRIES: Final = 20_000
_DEEPEST: Final = 8

_LOG: Final = re.compile(r"vmcore-dmesg(?:-incomplete)?\.txt|dmesg(?:\.txt|\.\d{8,})?")
_CRASH_DIRECTORY: Final = re.compile(r"(?:^|/)crash/[^/]+/[^/]+$")
_UNAME: Final = "sos_commands/kernel/uname_-a"


@dataclass(slots=True, kw_only=True)
class Contents:
    """What was found below a directory."""

    dumps: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    """Kernel logs that kdump saved; not a sosreport's dmesg, which is of the machine after its reboot."""
    uname: Path | None = None


def look(directory: Path) -> Contents:
    """Dumps and kdump's logs below a directory. Raises `DumpUnreadable` when it cannot be listed."""
    found = Contents()
    seen = 0

    def stop(error: OSError) -> None:
        if error.filename == str(directory):
            raise DumpUnreadable(f"{directory}: {error.strerror}", hint=f"as root: setfacl -m u:$USER:rx {directory}")

    for top, directories, files in os.walk(directory, onerror=stop):
        depth = len(Path(top).relative_to(directory).parts)
        directories[:] = sorted(directories) if depth < _DEEPEST else []
        for name in sorted(files):
            seen += 1
            if seen > _MOST_ENTRIES:
                return found
            _consider(Path(top) / name, depth, found)
    return found


def choose(directory: Path) -> Path | None:
    """The one dump below a directory; None when there is none. Raises `NotADump` when there are several."""
    dumps = look(directory).dumps
    if not dumps:
        return None
    if len(dumps) > 1:
        first = _newest(dumps)
        raise NotADump(
            f"{directory} holds {len(dumps)} dumps: {', '.join(str(one.relative_to(directory)) for one in dumps[:5])}",
            hint=f"name one of them; the newest is {first}",
        )
    return dumps[0]


def log_beside(dump: Path) -> Path | None:
    """The log that kdump saved for a dump: vmcore-dmesg.txt (RHEL), dmesg.STAMP (Debian), dmesg.txt (SUSE)."""
    if not dump.name.startswith(("vmcore", "dump")):
        return None
    stamp = re.search(r"\.(\d{8,})", dump.name)
    names = (
        (f"dmesg.{stamp[1]}",) if stamp else ("vmcore-dmesg.txt", "dmesg.txt", "dmesg", "vmcore-dmesg-incomplete.txt")
    )
    return next((dump.parent / name for name in names if (dump.parent / name).is_file()), None)


def unfinished_beside(dump: Path) -> bool:
    """SUSE's kdump leaves a README.txt that says so until the dump is written."""
    try:
        with FileSource(dump.parent / "README.txt") as source:
            return b"crash dump is likely incomplete" in source.read_at(0, 4096)
    except VmboxError:
        return False


def _consider(path: Path, depth: int, found: Contents) -> None:
    text = path.as_posix()
    if text.endswith(_UNAME):
        found.uname = path
        return
    if _LOG.fullmatch(path.name) and (path.name.startswith("vmcore") or depth == 0 or _CRASH_DIRECTORY.search(text)):
        found.logs.append(path)
        return
    try:
        if path.is_symlink() or path.stat().st_size < 512:
            return
        with FileSource(path) as source:
            head = source.read_at(0, magic.PEEK)
    except (VmboxError, OSError):
        return
    if magic.is_dump(head):
        # The parts of a split dump share their header, and are one dump.
        if not any(_same_set(head, other) for other in found.dumps if other.parent == path.parent):
            found.dumps.append(path)
    elif magic.wrapper(head) is not None and re.match(r"(?:vmcore|dump)[.-]?", path.name):
        found.dumps.append(path)


def _same_set(head: bytes, other: Path) -> bool:
    with FileSource(other) as source:
        return source.read_at(0, magic.PEEK) == head


def _newest(paths: list[Path]) -> Path:
    return max(paths, key=lambda path: path.stat().st_mtime)

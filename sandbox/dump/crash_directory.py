"""A directory in place of a dump: one that kdump wrote below /var/crash, or an unpacked sosreport."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from sandbox.dump import log_forms, magic, pstore
from sandbox.dump.source import SECONDS, Budget, DeadlineExceeded, FileSource, beside
from sandbox.errors import DumpUnreadable, NotADump, VmboxError, pasteable
from sandbox.host.paths import user_name

_MOST_ENTRIES: Final = 50_000
_DEEPEST: Final = 8
_SMALLEST: Final = 512

_LOG: Final = re.compile(r"vmcore-dmesg(?:-incomplete)?\.txt|dmesg(?:\.txt|\.\d{8,})?")
_STAMPED: Final = re.compile(r"(?:vmcore|k?dump)(?:[.-]|$)")
"""kdump's names of a dump: vmcore, vmcore.1, dump.STAMP (Debian), kdump.STAMP (SONiC)."""
_OF_A_HOST: Final = re.compile(r"(.+)[.-]vmcore(?:\.|$)")
"""The name of one that was collected: HOST.vmcore."""
_CRASH_DIRECTORY: Final = re.compile(r"(?:^|/)crash/[^/]+/[^/]+$")
_UNAME: Final = "sos_commands/kernel/uname_-a"
_COLLECTED: Final = frozenset({"VmCoreDmesg", "OopsText", "backtrace", "dmesg_log"})
"""What apport-unpack and abrt call the log of a crash."""
_BESIDE_COLLECTED: Final = frozenset({"ProblemType", "kernel", "reason"})
"""Files that apport or abrt writes beside that."""
_KERNEL: Final = "kernel"
"""What abrt calls the file with the release."""


@dataclass(slots=True, kw_only=True)
class Contents:
    """What was found below a directory."""

    dumps: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    """Kernel logs that kdump saved; not a sosreport's dmesg, which is of the machine after its reboot."""
    parts: list[Path] = field(default_factory=list)
    """Parts of logs that pstore kept."""
    uname: Path | None = None
    kernel: Path | None = None
    """abrt's file with the release."""
    cut: bool = False
    """There is more below the directory than was looked at."""
    links: list[Path] = field(default_factory=list)
    """Links with the name of a dump, which lead out of the directory and are not followed."""
    heads: set[tuple[Path, bytes]] = field(default_factory=set)
    """Directory and first bytes of each dump: the parts of a split dump share their header, and are one dump."""


def look(directory: Path, budget: Budget | None = None) -> Contents:
    """Dumps and kdump's logs below a directory, in one pass. Raises `DumpUnreadable` when it cannot be listed.

    Links are not followed. The pass ends after a number of entries, or when the time is over.
    """
    budget = budget or Budget(SECONDS)
    found = Contents()
    waiting = [(directory, 0)]
    seen = 0
    while waiting and not found.cut:
        top, depth = waiting.pop()
        try:
            with os.scandir(top) as listing:
                entries = list(islice(listing, _MOST_ENTRIES - seen + 1))
        except OSError as error:
            if top == directory:
                hint = f"as root: setfacl -m u:{user_name(os.geteuid())}:rx {pasteable(directory)}"
                raise DumpUnreadable(f"{directory}: {error.strerror}", hint=hint) from error
            continue
        seen += len(entries)
        found.cut = seen > _MOST_ENTRIES
        below = []
        try:
            budget.ask()
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    below.append((top / entry.name, depth + 1))
                elif entry.is_file(follow_symlinks=False):
                    _consider(directory, entry, depth, found, budget)
                elif entry.is_symlink() and is_dump_name(entry.name):
                    budget.ask()
                    if leads_out(Path(entry.path), directory):
                        found.links.append(Path(entry.path))
        except DeadlineExceeded:
            found.cut = True
            return found
        if depth < _DEEPEST:
            waiting += reversed(below)
    return found


def choose(directory: Path, contents: Contents | None = None) -> Path | None:
    """The one dump below a directory; None when there is none. Raises `NotADump` when there are several."""
    dumps = (contents or look(directory)).dumps
    if not dumps:
        return None
    if len(dumps) > 1:
        first = _newest(dumps)
        raise NotADump(
            f"{directory} holds {len(dumps)} dumps: {', '.join(str(one.relative_to(directory)) for one in dumps[:5])}",
            hint=f"name one of them; the newest is {pasteable(first)}",
        )
    return dumps[0]


def log_beside(dump: Path) -> Path | None:
    """The log that kdump saved for a dump: vmcore-dmesg.txt (RHEL), dmesg.STAMP (Debian), dmesg.txt (SUSE)."""
    if (host := _OF_A_HOST.match(dump.name)) is not None:
        # Beside it may be the dumps of other hosts, and a log without a host's name may be of any.
        mine = (f"{host[1]}.vmcore-dmesg.txt", f"{host[1]}-dmesg.txt", f"{host[1]}.dmesg.txt", f"{host[1]}.dmesg")
        return next((path for name in mine if (path := beside(dump, name)) is not None), None)
    if not dump.name.startswith(("vmcore", "dump", "kdump")):
        return None
    stamp = re.search(r"\.(\d{8,})", dump.name)
    names = (
        (f"dmesg.{stamp[1]}",) if stamp else ("vmcore-dmesg.txt", "dmesg.txt", "dmesg", "vmcore-dmesg-incomplete.txt")
    )
    return next((path for name in names if (path := beside(dump, name)) is not None), None)


def unfinished_beside(dump: Path) -> bool:
    """SUSE's kdump leaves a README.txt that says so until the dump is written."""
    try:
        with FileSource(dump.parent / "README.txt", below=dump.parent) as source:
            return b"crash dump is likely incomplete" in source.read_at(0, 4096)
    except VmboxError:
        return False


def _consider(directory: Path, entry: os.DirEntry[str], depth: int, found: Contents, budget: Budget) -> None:
    path = Path(entry.path)
    text = path.as_posix()
    if text.endswith(_UNAME):
        found.uname = path
        return
    if _LOG.fullmatch(path.name) and (path.name.startswith("vmcore") or depth == 0 or _CRASH_DIRECTORY.search(text)):
        found.logs.append(path)
        return
    if pstore.is_part(path.name):
        if len(found.parts) < pstore.MOST:
            found.parts.append(path)
        return
    if depth == 0 and path.name == _KERNEL:
        found.kernel = path
        return
    if depth == 0 and path.name in _COLLECTED and _is_log(directory, path, budget):
        found.logs.append(path)
        return
    try:
        if entry.stat(follow_symlinks=False).st_size < _SMALLEST:
            return
        with FileSource(path, budget=budget, below=directory) as source:
            head = source.read_at(0, magic.PEEK)
    except (VmboxError, OSError):
        return
    if magic.is_dump(head):
        if (path.parent, head) not in found.heads:
            found.heads.add((path.parent, head))
            found.dumps.append(path)
    elif magic.wrapper(head) is not None and is_dump_name(path.name):
        found.dumps.append(path)


def is_collected(names: Collection[str]) -> bool:
    """Whether a directory with files of these names is one crash, as apport-unpack or abrt writes it."""
    return not _COLLECTED.isdisjoint(names) and not _BESIDE_COLLECTED.isdisjoint(names)


def is_dump_name(name: str) -> bool:
    """Whether kdump, or who collects dumps, calls one so: it counts where the content is compressed."""
    return name.startswith("vmcore") or _STAMPED.match(name) is not None or _OF_A_HOST.match(name) is not None


def leads_out(link: Path, directory: Path) -> bool:
    """Whether a link leads to a file that is not below the directory, where it is found by itself.

    The kernel follows it, which ends after 40 links: Python goes along a chain of a thousand, for each of its links.
    """
    try:
        opened = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        target = Path(os.readlink(f"/proc/self/fd/{opened}"))  # noqa: PTH115 - the link is the kernel's, no file's
        return stat.S_ISREG(os.fstat(opened).st_mode) and not target.is_relative_to(directory.resolve())
    except OSError:
        return False
    finally:
        os.close(opened)


def _is_log(directory: Path, path: Path, budget: Budget) -> bool:
    try:
        with FileSource(path, budget=budget, below=directory) as source:
            return log_forms.is_log(source.read_at(0, log_forms.PEEK), budget.ask)
    except VmboxError:
        return False


def _newest(paths: list[Path]) -> Path:
    return max(paths, key=lambda path: path.lstat().st_mtime)

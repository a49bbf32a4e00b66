"""Files that kdump and sos save beside a dump, or in its place: the kernel's log as text, and uname -a."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from sandbox.dump import log_boots, log_forms, magic, panic, pstore, same_boot
from sandbox.dump.builder import VmcoreBuilder, apply_findings
from sandbox.dump.crash_directory import Contents
from sandbox.dump.header import MACHINES
from sandbox.dump.source import Budget, FileSource
from sandbox.errors import VmboxError
from sandbox.formats.streams import Source

_WHOLE: Final = 2 << 20
"""Bytes of a text that are read as a whole; of a longer one the part that tells of the last panic."""
_BEFORE: Final = 3 << 19
_AFTER: Final = 1 << 19
_BANNER_PART: Final = 256 << 10
_STEP: Final = 4 << 20
_FARTHEST: Final = 1 << 30
"""Bytes that are searched for the last panic, and for the beginning of its boot."""

_CASE_NAME: Final = re.compile(r".+-\d{4}-\d\d-\d\d-\d\d:\d\d(?::\d\d)?|\d{12,14}")
"""What kdump calls the directory of one dump: address and time, on Debian the time alone."""


def read(source: Source, budget: Budget) -> log_forms.LogText:
    """The boot of a text that panicked last. Raises `DeadlineExceeded`, `DumpDamaged` for the link of a cut QR code."""
    return of_text(_relevant(source, budget), budget)


def is_log(source: Source, budget: Budget) -> bool:
    """Whether a file is a kernel log, as far as its beginning or its end tells."""
    if log_forms.is_log(source.read_at(0, log_forms.PEEK), budget.ask):
        return True
    size = source.size or 0
    tail = source.read_at(max(log_forms.PEEK, size - log_forms.PEEK), log_forms.PEEK)
    return bool(tail) and magic.is_text(source.read_at(0, magic.PEEK)) and log_forms.is_log(tail, budget.ask)


def of_text(text: bytes, budget: Budget) -> log_forms.LogText:
    """The same of a text in memory."""
    found = log_forms.read(text, budget.ask)
    return replace(found, records=list(log_boots.last_panicked(found.records, budget)))


def apply_text(builder: VmcoreBuilder, source: Source, budget: Budget, origin: str) -> None:
    """Reads a log in any form. Its own boot gives all values."""
    apply_log(builder, read(source, budget), budget, origin)


def apply_log(builder: VmcoreBuilder, log: log_forms.LogText, budget: Budget, origin: str) -> None:
    apply_findings(builder, panic.examine(log.records, budget), origin)
    builder.propose(origin, release=log.release, arch=log.arch)
    if builder.get("arch") is None and (release := builder.get("release")) is not None:
        from sandbox.dump.release import machine  # reads the rules

        builder.propose("release", arch=machine(release, builder.get("utsname_version")))


def read_directory(
    directory: Path, contents: Contents, budget: Budget
) -> tuple[log_forms.LogText, Path, str | None] | None:
    """The log in a directory without a dump, its file, and what is missing of it; None where there is none."""
    first: tuple[log_forms.LogText, Path, None] | None = None
    for saved in reversed(contents.logs):
        with FileSource(saved, budget=budget, below=directory) as source:
            text = read(source, budget)
        # abrt's dmesg may be of another time than the crash.
        if len(contents.logs) == 1 or any(panic.severity(one.text) for one in text.records):
            return text, saved, None
        first = first or (text, saved, None)
    if first is not None:
        return first
    joined = _pstore(contents.parts, directory, budget)
    return None if joined is None else (of_text(joined.text, budget), joined.last, joined.problem)


def read_part(path: Path, budget: Budget) -> tuple[log_forms.LogText, str | None] | None:
    """The log that a file of pstore is a part of, with its other parts beside it, and what is missing of it."""
    try:
        names = [entry.name for entry in islice(os.scandir(path.parent), 4 * pstore.MOST) if pstore.is_part(entry.name)]
    except OSError:
        names = []
    beside = [path.parent / name for name in sorted(names)[: pstore.MOST]]
    joined = _pstore(dict.fromkeys([path, *beside]), path.parent, budget, path)
    return None if joined is None else (of_text(joined.text, budget), joined.problem)


def _pstore(paths: Iterable[Path], directory: Path, budget: Budget, wanted: Path | None = None) -> pstore.Joined | None:
    parts = []
    for path in paths:
        # Only what the user named may be a link.
        with suppress(VmboxError), FileSource(path, budget=budget, below=None if path == wanted else directory) as file:
            if (part := pstore.read(path, file.read_at(0, pstore.LARGEST))) is not None:
                parts.append(part)
    if wanted is not None and all(part.path != wanted for part in parts):
        return None
    return pstore.join(parts, wanted)


def _relevant(source: Source, budget: Budget) -> bytes:
    """A text, or of a long one what is around its last panic, behind the nearest banner before that."""
    text = source.read_at(0, _WHOLE)
    size = source.size
    if size is None or size <= _WHOLE:
        return text
    panicked = _last(source, b"Kernel panic - not syncing", size, budget)
    end = size if panicked is None else min(size, panicked + _AFTER)
    begin = max(0, end - _BEFORE - _AFTER)
    around = source.read_at(begin, end - begin)
    banner = _last(source, b"Linux version ", begin, budget)
    if b"Linux version " in around or banner is None:
        return around
    line = max(0, banner - 160)
    return source.read_at(line, min(_BANNER_PART, begin - line)) + b"\n" + around


def _last(source: Source, what: bytes, end: int, budget: Budget) -> int | None:
    """Where `what` is last found before `end`, in the last `_FARTHEST` bytes."""
    for at in range(end, max(0, end - _FARTHEST), -_STEP):
        budget.ask()
        begin = max(0, at - _STEP)
        found = source.read_at(begin, min(at + len(what), end) - begin).rfind(what)
        if found >= 0:
            return begin + found
    return None


def apply_saved_log(builder: VmcoreBuilder, name: str, source: Source, budget: Budget) -> None:
    """The log that kdump saved for a dump, unless it is of another kernel or boot: then it is another crash's."""
    beside = VmcoreBuilder(builder.values["path"], 0)
    apply_text(beside, source, budget, name)
    if builder.get("release") not in {None, beside.get("release")}:
        return
    lines = _relevant(source, budget).decode(errors="replace").splitlines()
    why = same_boot.another_boot(lines, release=None, version=None, crash_time=builder.get("crash_time"))
    if why is None:
        builder.merge(beside)
    else:
        builder.set(skipped=f"the log, with cause and panic: {name} {why}")


def apply_uname(builder: VmcoreBuilder, uname: str) -> None:
    """`uname -a` of the machine after its reboot, usually with the same kernel."""
    words = uname.split()
    if len(words) > 3 and words[0] == "Linux":
        builder.propose("sosreport", release=words[2])
        builder.propose("sosreport", arch=next((word for word in reversed(words) if word in MACHINES), None))


def apply_kernel(builder: VmcoreBuilder, text: str) -> None:
    """abrt's file `kernel`, the release, where the log itself does not say it."""
    if builder.get("release") is None and re.fullmatch(r"\d+\.\d+\S{0,120}", text.strip()):
        from sandbox.dump.release import machine  # reads the rules

        builder.propose("abrt", release=text.strip(), arch=machine(text.strip(), None))


def apply_original_path(builder: VmcoreBuilder, saved_log: str | None) -> None:
    """Sets where the dump itself was written, as far as the name of the log beside it shows."""
    if saved_log is None:
        builder.set(original_path="/var/crash/<address>-<time>/vmcore")
        return
    before, found, name = saved_log.rpartition("/")
    at = before.find("var/crash")
    own = before.rpartition("/")[2]
    if at >= 0:
        directory = "/" + before[at:]
    else:
        directory = f"/var/crash/{own if _CASE_NAME.fullmatch(own) else '<address>-<time>'}"
    stamp = name.removeprefix("dmesg.")
    dump = f"dump.{stamp}" if found and stamp.isdigit() else "vmcore"
    builder.set(original_path=f"{directory}/{dump}")

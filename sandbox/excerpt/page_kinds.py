"""What the kernel uses pages for, told by its own struct page: which of them are user memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.case.options import OpenOptions
from sandbox.debugger import DEBUGGERS
from sandbox.errors import SessionFailed
from sandbox.model import CommandStatus
from sandbox.progress import Reporter
from sandbox.report.bounded_answer import PER_ANSWER, BoundedAnswer
from sandbox.session.script import run_script
from sandbox.session.start import open_session

USER: Final = frozenset({"anonymous", "page cache"})
"""Memory of processes, and contents of files."""
UNKNOWN: Final = "unknown"
_KNOWN: Final = USER | {"slab", "kernel", "reserved"}
"""What the script answers of a page. Another word is of a dump that took its case over."""

_NUMBER: Final = re.compile("[0-9]{1,20}")

_DEBUGGER: Final = "drgn"

# page->mapping has bit 0 set for anonymous memory, shared by KSM or not; bit 1 alone for pages of the kernel that can
# be moved; else it is the address_space of a file (include/linux/page-flags.h: PAGE_MAPPING_ANON, FOLIO_MAPPING_ANON).
_SCRIPT: Final = """
import sys
from drgn import FaultError
from drgn.helpers.linux.mm import PageReserved, PageSlab, compound_head, pfn_to_page

def kind(pfn):
    try:
        page = compound_head(pfn_to_page(prog, pfn))
        if PageSlab(page):
            return "slab"
        mapping = page.mapping.value_()
        if mapping & 1:
            return "anonymous"
        if mapping & 3 == 0 and mapping:
            return "page cache"
        return "reserved" if PageReserved(page) else "kernel"
    except (FaultError, LookupError, AttributeError, ValueError):
        return "unknown"

for word in FRAMES.split():
    first, count = map(int, word.split("+"))
    for pfn in range(first, first + count):
        print(pfn, kind(pfn))
"""


def kinds(
    dump: Path, frames: Sequence[int], options: OpenOptions, reporter: Reporter, *, timeout: float
) -> Mapping[int, str]:
    """By page frame: slab, anonymous, page cache, reserved (the kernel's image), kernel, or unknown.

    Raises `SessionFailed` when drgn, which reads the struct page of each, does not answer.
    """
    words = " ".join(f"{first}+{count}" for first, count in _runs(frames))
    answer = BoundedAnswer(PER_ANSWER)
    session, _ = open_session(dump, replace(options, once=True, debugger=_DEBUGGER), reporter)
    with session:
        code = DEBUGGERS[_DEBUGGER].script_of(f"FRAMES = {words!r}\n{_SCRIPT}")
        status, errors = run_script(session, "what pages are", code, (), answer, timeout=timeout)
    if status is not CommandStatus.OK:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise SessionFailed(f"which pages are user memory cannot be told: {last}", hint="leave out --exclude-user")
    found = dict.fromkeys(frames, UNKNOWN)
    for line in answer.text().splitlines():
        number, _, kind = line.partition(" ")
        if kind in _KNOWN and _NUMBER.fullmatch(number) and int(number) in found:
            found[int(number)] = kind
    return found


def _runs(frames: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for frame in sorted(set(frames)):
        if runs and frame == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((frame, 1))
    return runs

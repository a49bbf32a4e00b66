"""Files that kdump and sos save beside a dump, or in its place: the kernel's log as text, and uname -a."""

from __future__ import annotations

import re
from typing import Final

from sandbox.dump import panic, printk
from sandbox.dump.builder import VmcoreBuilder, apply_findings
from sandbox.dump.header import MACHINES
from sandbox.dump.source import Budget
from sandbox.formats.streams import Source

_LOG_BYTES: Final = 4 << 20

_CASE_NAME: Final = re.compile(r".+-\d{4}-\d\d-\d\d-\d\d:\d\d(?::\d\d)?|\d{12,14}")
"""What kdump calls the directory of one dump: address and time, on Debian the time alone."""


def apply_text(builder: VmcoreBuilder, source: Source, budget: Budget, origin: str) -> None:
    text = source.read_at(0, _LOG_BYTES)
    size = source.size
    if size is not None and size > _LOG_BYTES:
        # The beginning has the banner, the end the panic.
        text = text[: 1 << 20] + source.read_at(size - _LOG_BYTES, _LOG_BYTES)
    apply_findings(builder, panic.examine(printk.from_text(text), budget), origin)


def apply_saved_log(builder: VmcoreBuilder, name: str, source: Source, budget: Budget) -> None:
    """The log that kdump saved for a dump, unless it is of another kernel: then it is another crash's."""
    beside = VmcoreBuilder(builder.values["path"], 0)
    apply_text(beside, source, budget, name)
    if builder.get("release") in {None, beside.get("release")}:
        builder.merge(beside)


def apply_uname(builder: VmcoreBuilder, uname: str) -> None:
    """`uname -a` of the machine after its reboot, usually with the same kernel."""
    words = uname.split()
    if len(words) > 3 and words[0] == "Linux":
        builder.propose("sosreport", release=words[2])
        builder.propose("sosreport", arch=next((word for word in reversed(words) if word in MACHINES), None))


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

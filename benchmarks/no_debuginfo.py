"""The first `bt` of a dump without debuginfo, and the next command, beside the same with debuginfo at hand.

    python -m benchmarks.no_debuginfo [--rounds N] VMCORE…

Whole processes, the container's start included; image and debuginfo are there. Processor time and memory are those of
drgn in the case, which opened the dump and answered two commands.

Bytes of the dump are those of the pages that drgn asks for, as they are in the file, and of their descriptors and the
bitmaps: a record of pages tells them apart. Beside it is what `fincore` (util-linux) finds in the page cache after a
first `bt` of a dump that was not in it, with all that the kernel reads ahead: for each page as much as the disk's
`read_ahead_kb`, which is 128 by default.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
from pathlib import Path

from benchmarks.session import seconds, vmbox
from sandbox.case.options import OpenOptions
from sandbox.case.store import find
from sandbox.dump import kdump
from sandbox.dump.kdump_pages import PageIndex
from sandbox.dump.source import FileSource
from sandbox.excerpt.questions import commands
from sandbox.progress import QUIET

USED = (
    "import resource as r, json; u = r.getrusage(r.RUSAGE_SELF); "
    "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss]))"
)
ASK = ("--no-debuginfo", "--tool", "drgn", "-e", USED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcores", type=Path, nargs="+", metavar="VMCORE")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print("| dump | first bt | with debuginfo, drgn | next command | processor | memory | asked for | in memory |")
    print("|---|---|---|---|---|---|---|---|")
    for vmcore in given.vmcores:
        measure(vmcore, given.rounds)


def measure(vmcore: Path, rounds: int) -> None:
    times: dict[str, list[float]] = {"without": [], "with": [], "next": []}
    used = [0.0, 0.0]
    vmbox("run", vmcore, "--", "sys")
    close(vmcore)
    asked_for, cached = bytes_asked_for(vmcore), bytes_cached(vmcore)
    for number in range(rounds + 1):
        close(vmcore)
        without = seconds(lambda: vmbox("run", vmcore, "--no-debuginfo", "--", "bt"))
        following = seconds(lambda: vmbox("run", vmcore, "--no-debuginfo", "--", "ps -p 1"))
        asked = [sys.executable, "-m", "sandbox", "run", "-q", str(vmcore), *ASK]
        used = json.loads(subprocess.run(asked, check=True, capture_output=True).stdout)
        close(vmcore)
        beside = seconds(lambda: vmbox("run", vmcore, "--with", "drgn", "--", "bt"))
        # The first round fills the page cache.
        if number:
            for name, value in (("without", without), ("next", following), ("with", beside)):
                times[name].append(value)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"| {vmcore} | {medians['without']:.2f} s | {medians['with']:.2f} s | {medians['next']:.2f} s "
        f"| {used[0]:.2f} s | {used[1] / 1024:.0f} MiB | {asked_for / 1e6:.1f} MB | {cached / 1e6:.1f} MB |",
        flush=True,
    )


def close(vmcore: Path) -> None:
    """Close the case of a dump, if there is one."""
    if find(vmcore) is not None:
        vmbox("close", vmcore)


def bytes_asked_for(vmcore: Path) -> int:
    """Bytes of a dump that its first `bt` needs."""
    (bt,) = commands(vmcore, ["bt"], OpenOptions(no_debuginfo=True), QUIET, timeout=60)
    with FileSource(vmcore) as source:
        parsed = kdump.parse(source)
        if parsed is None:
            return 4096 * len(bt.frames)  # as ELF has them
        _, layout = parsed
        index = PageIndex(source, layout)
        positions = [place for frame in bt.frames if (place := index.position(frame)) is not None]
        code = ("<" if layout.order == "little" else ">") + "8xI"
        described = (source.read_at(layout.descriptors_offset + kdump.DESCRIPTOR_SIZE * at, 12) for at in positions)
        sizes = sum(struct.unpack(code, raw)[0] for raw in described)
    return layout.descriptors_offset + kdump.DESCRIPTOR_SIZE * len(positions) + sizes


def bytes_cached(vmcore: Path) -> int:
    """Bytes of a dump that are in the page cache after its first `bt`."""
    with vmcore.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    vmbox("run", vmcore, "--no-debuginfo", "--", "bt")
    found = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(vmcore)], check=True, capture_output=True
    )
    close(vmcore)
    return int(found.stdout)


if __name__ == "__main__":
    main()

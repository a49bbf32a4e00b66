"""Measures how fast a dump is identified, beside `crash --osrelease` and drgn on the same file.

    python benchmarks/identify.py [--runs N] [--synthetic DIRECTORY] VMCORE...

`--synthetic` also writes and measures the header of a 2 TiB machine's dump with every second page in it, and a sparse
file of 100 GB. "inside" is a call in a running Python. Each of N rounds starts every process once, after one round
that warms the page cache. The time is the median; "cpu" is the median of user and system time, on which other work has
less influence; "beside" is the median of the rounds' ratios to a Python that does nothing, and to crash. "peak" is the
memory of the whole process, and at least the benchmark's own, which counts for its children too. "no bytecode" is
vmbox without compiled modules, as in a read-only checkout. drgn is measured if this Python has it, crash if it is
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.dump import identify

NOTHING = "python, nothing"
CRASH = "crash --osrelease"
DRGN = "import drgn,sys; p=drgn.Program(); p.set_core_dump(sys.argv[1]); print(p['UTS_RELEASE'])"
LIBRARY = "import sys; from pathlib import Path; from sandbox.dump import identify; identify(Path(sys.argv[1]), log={})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcores", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--synthetic", type=Path, metavar="DIRECTORY")
    given = parser.parse_args()
    for vmcore in given.vmcores:
        report(vmcore, given.runs)
    if given.synthetic:
        for name, write in (("2TiB", two_tebibytes), ("100GB-sparse", hundred_gigabytes)):
            path = given.synthetic / f"synthetic-{name}"
            write(path)
            report(path, given.runs)
            path.unlink()


def report(path: Path, runs: int) -> None:
    found = identify(path)
    size = path.stat().st_size
    print(f"\n{path.name}: {size / 1e6:.1f} MB, {found.format}, flattened {found.flattened}, {found.release}")
    print(f"  {'inside':34} {'median':>9} {'worst':>9}")
    inside("header fields", lambda: identify(path, log=False), runs)
    inside("with log and panic", lambda: identify(path), runs)
    python = sys.executable
    commands = {
        NOTHING: [python, "-c", "pass"],
        "header fields, library": [python, "-c", LIBRARY.format(False), str(path)],
        "with log and panic, library": [python, "-c", LIBRARY.format(True), str(path)],
    }
    if vmbox := shutil.which("vmbox", path=f"{Path(python).parent}:{os.environ['PATH']}"):
        commands["vmbox info"] = [vmbox, "info", str(path)]
        commands["vmbox info, no bytecode"] = [
            *("env", "PYTHONDONTWRITEBYTECODE=1", f"PYTHONPYCACHEPREFIX={os.devnull}"),
            *(vmbox, "info", str(path)),
        ]
    if crash := shutil.which("crash"):
        commands[CRASH] = [crash, "--osrelease", str(path)]
    if importlib.util.find_spec("drgn"):
        commands["drgn, release only"] = [python, "-c", DRGN, str(path)]
    processes(commands, runs)


def inside(what: str, call: Callable[[], object], runs: int) -> None:
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    print(f"  {what:34} {statistics.median(times):7.1f}ms {max(times):7.1f}ms")


def processes(commands: dict[str, list[str]], runs: int) -> None:
    measured: dict[str, list[Run]] = {what: [] for what in commands}
    failed: dict[str, str] = {}
    for _ in range(runs + 1):
        for what, command in commands.items():
            if what not in failed:
                one = run(command)
                if isinstance(one, str):
                    failed[what] = one
                else:
                    measured[what].append(one)
    print(f"  {'whole process':34} {'median':>9} {'worst':>9} {'cpu':>9} {'peak':>8}  beside python, crash")
    for what, all_runs in measured.items():
        if what in failed:
            print(f"  {what:34} {failed[what]}")
            continue
        rounds = all_runs[1:]
        times = [one.seconds * 1e3 for one in rounds]
        cpu = statistics.median(one.cpu * 1e3 for one in rounds)
        memory = max(one.kibibytes for one in rounds) / 1024
        ratios = [
            f"{statistics.median(a.seconds / b.seconds for a, b in zip(rounds, measured[other][1:], strict=True)):6.2f}"
            for other in (NOTHING, CRASH)
            if measured.get(other) and other not in failed
        ]
        print(
            f"  {what:34} {statistics.median(times):7.1f}ms {max(times):7.1f}ms {cpu:7.1f}ms {memory:6.0f}MB ",
            " ".join(ratios),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a process."""

    seconds: float
    cpu: float
    """Seconds of user and system time."""
    kibibytes: int


def run(command: list[str]) -> Run | str:
    """Runs a command once. Returns the message if it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        said = child.stderr.read().decode(errors="replace").strip().splitlines() if child.stderr else []
        return f"fails with {child.returncode}: {said[-1] if said else 'without a word'}"
    return Run(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, kibibytes=usage.ru_maxrss)


def two_tebibytes(path: Path) -> None:
    """Writes bitmaps of 64 MiB each, every second page present: the worst case for counting. The pages are a hole."""
    header(path, max_mapnr=1 << 29, bitmap=b"\x55" * (1 << 20), repeat=64)


def hundred_gigabytes(path: Path) -> None:
    header(path, max_mapnr=1 << 25, bitmap=bytes(1 << 20), repeat=4)
    os.truncate(path, 100 * 10**9)


def header(path: Path, *, max_mapnr: int, bitmap: bytes, repeat: int) -> None:
    info = b"OSRELEASE=5.14.0-427.18.1.el9_4.x86_64\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
    head = bytearray(4096)
    head[:8] = b"KDUMP   "
    head[12:17] = b"Linux"
    head[272:278] = b"x86_64"
    size = len(bitmap) * repeat
    struct.pack_into("<IiiII", head, 424, 1, 4096, 1, 2 * size // 4096, max_mapnr)
    struct.pack_into("<i", head, 8, 6)
    struct.pack_into("<i", head, 460, 224)
    body = bytearray(4096)
    note = struct.pack("<III", 11, len(info), 0) + b"VMCOREINFO\0\0" + info + bytes(-len(info) % 4)
    places = (4096 + 104 + 24, len(info), 4096 + 104, len(note))
    struct.pack_into("<qiiQQqQqQ", body, 0, 0, 31, 0, 0, 0, *places)
    struct.pack_into("<QQQ", body, 80, 0, max_mapnr, max_mapnr)
    body[104 : 104 + len(note)] = note
    with path.open("wb") as out:
        out.write(head + body)
        for _ in range(2 * repeat):
            out.write(bitmap)
        pages = int.from_bytes(bitmap, "little").bit_count() * repeat
        end = out.tell() + 24 * pages
        out.seek(end - 24)
        out.write(struct.pack("<qIIQ", end, 4096, 0, 0))
        out.truncate(end + 4096)


if __name__ == "__main__":
    main()

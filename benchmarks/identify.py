"""How fast a dump is identified, beside `crash --osrelease` and drgn on the same file.

    python benchmarks/identify.py [--runs N] [--synthetic DIRECTORY] VMCORE...

`--synthetic` also writes and measures the header of a 2 TiB machine's dump with every second page in it, and a 100 GB
file that is sparse. Times are the median of N runs after one that warms the page cache; memory is the peak of the whole
process, and "python, nothing" what starting it costs. drgn is measured when this Python has it, crash when it is
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
from pathlib import Path

from sandbox.dump import identify

DRGN = "import drgn,sys; p=drgn.Program(); p.set_core_dump(sys.argv[1]); print(p['UTS_RELEASE'])"
LIBRARY = "import sys; from pathlib import Path; from sandbox.dump import identify; identify(Path(sys.argv[1]), log={})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcores", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--synthetic", type=Path, metavar="DIRECTORY")
    given = parser.parse_args()
    print(f"{'':40} {'median':>9} {'worst':>9} {'peak':>8}")
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
    show("identify, header fields", inside(lambda: identify(path, log=False), runs))
    show("identify, with log and panic", inside(lambda: identify(path), runs))
    python = sys.executable
    show("python, nothing", process([python, "-c", "pass"], runs))
    show("python, header fields", process([python, "-c", LIBRARY.format(False), str(path)], runs))
    show("python, with log and panic", process([python, "-c", LIBRARY.format(True), str(path)], runs))
    if vmbox := shutil.which("vmbox", path=f"{Path(python).parent}:{os.environ['PATH']}"):
        show("vmbox info", process([vmbox, "info", str(path)], runs))
    if crash := shutil.which("crash"):
        show("crash --osrelease", process([crash, "--osrelease", str(path)], runs))
    if importlib.util.find_spec("drgn"):
        show("drgn, release only", process([python, "-c", DRGN, str(path)], runs))


def inside(call: Callable[[], object], runs: int) -> list[tuple[float, int]]:
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start, 0))
    return times


def process(command: list[str], runs: int) -> list[tuple[float, int]] | str:
    """Wall time and peak memory (KiB) of each run; what it said when it failed."""
    measured = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _, status, usage = os.wait4(child.pid, 0)
        measured.append((time.perf_counter() - start, usage.ru_maxrss))
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said = child.stderr.read().decode(errors="replace").strip().splitlines() if child.stderr else []
            return f"fails with {child.returncode}: {said[-1] if said else 'without a word'}"
    return measured[1:]


def show(what: str, measured: list[tuple[float, int]] | str) -> None:
    if isinstance(measured, str):
        print(f"  {what:38} {measured}")
        return
    times = [seconds * 1e3 for seconds, _ in measured]
    memory = max(kibibytes for _, kibibytes in measured) / 1024
    peak = f"{memory:6.0f}MB" if memory else ""
    print(f"  {what:38} {statistics.median(times):7.1f}ms {max(times):7.1f}ms {peak}")


def two_tebibytes(path: Path) -> None:
    """Bitmaps of 64 MiB each, every second page present: the worst there is to count. The pages are a hole."""
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

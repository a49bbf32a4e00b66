"""Measures reports beside the crash that they use, and many at once beside one by one; in one run on one machine.

    python benchmarks/triage.py [--runs N] [--dumps N] [--rounds N] [--many N] VMCORE

Image and debuginfo are cached after a first time. The dumps of a triage are copies of VMCORE (reflinks if the file
system has them); those of the identification, and of the coordinator's memory, are hard links, which vmbox takes for
different dumps. The coordinator's memory is measured without an engine: reports then have only what dumps say about
themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

VMBOX = [sys.executable, "-c", "import sys; from sandbox.__main__ import main; sys.exit(main())"]
NOWHERE = "unix:///nonexistent/engine.sock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dumps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--many", type=int, default=1000)
    given = parser.parse_args()
    vmcore: Path = given.vmcore.resolve()
    with tempfile.TemporaryDirectory(dir=vmcore.parent) as directory:
        reports(vmcore, Path(directory), given.runs)
        side_by_side(vmcore, Path(directory), given.dumps, given.rounds)
        identification(vmcore, Path(directory), given.many)
        memory(vmcore, Path(directory), given.many)


def reports(vmcore: Path, directory: Path, runs: int) -> None:
    page = directory / "report.html"
    vmbox("report", vmcore, "-o", page)
    vmbox("close", vmcore)
    cold = seconds(lambda: vmbox("report", vmcore, "-o", page))
    warm = statistics.median(seconds(lambda: vmbox("report", vmcore, "-o", page)) for _ in range(runs))
    as_json = statistics.median(seconds(lambda: vmbox("report", vmcore, "--json")) for _ in range(runs))
    answers = json.loads(vmbox("report", vmcore, "--json"))["commands"]
    crash = sum(run["seconds"] for run in answers)
    bare = statistics.median(seconds(lambda: vmbox("--version")) for _ in range(runs))
    vmbox("close", vmcore)
    print(f"report, cold                        {cold:8.2f} s   (asked: 10 s)")
    print(f"report, warm                        {warm:8.2f} s   {warm / crash:.2f} of crash's answers (asked: 3 s)")
    print(f"    of which crash's answers        {crash:8.2f} s")
    print(f"    as JSON, so without drawing     {as_json:8.2f} s")
    print(f"    vmbox --version                 {bare:8.2f} s")
    for run in sorted(answers, key=lambda run: -run["seconds"])[:5]:
        print(f"        {run['command']:<28}{run['seconds']:8.2f} s")
    print(f"page                                {page.stat().st_size / 1e6:8.2f} MB  (asked: 1.5)")


def side_by_side(vmcore: Path, directory: Path, dumps: int, rounds: int) -> None:
    heap = directory / "heap"
    for number in range(dumps):
        (heap / str(number)).mkdir(parents=True)
        subprocess.run(["cp", "--reflink=auto", vmcore, heap / str(number) / "vmcore"], check=True)
    ratios = []
    for _ in range(rounds):
        taken, busy = {}, {}
        for jobs in (1, 2):
            out = directory / f"out{jobs}"
            before = processors()
            words = ("triage", heap, "-o", out, "--jobs", jobs, "--again")
            taken[jobs] = seconds(partial(vmbox, *words))
            busy[jobs] = (processors() - before) / taken[jobs]
        ratios.append(taken[1] / taken[2])
        print(
            f"{dumps} dumps: one by one {taken[1]:.1f} s with {busy[1]:.1f} processors busy, also with other work; "
            f"two at a time {taken[2]:.1f} s with {busy[2]:.1f}: {ratios[-1]:.2f} times"
        )
    print(f"one by one, in times of two at once {statistics.median(ratios):8.2f}     (asked: 1.6)")


def processors() -> float:
    """Returns the seconds that the processors of this machine have worked."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return sum(int(words[at]) for at in (1, 2, 3, 6, 7, 8)) / os.sysconf("SC_CLK_TCK")


def identification(vmcore: Path, directory: Path, many: int) -> None:
    from sandbox.triage import discovery
    from sandbox.triage.executors import ProcessPool, fitting_jobs
    from sandbox.triage.model import entry

    heap = linked(vmcore, directory / "links", many)
    began = time.monotonic()
    found = discovery.find([heap])
    pool = ProcessPool(fitting_jobs())
    kernels = {one.kernel for one in pool.map(entry, found)}
    pool.close(stop=False)
    took = time.monotonic() - began
    assert len(found) == many
    assert len(kernels) == 1
    print(f"{many} dumps found and identified   {took:8.2f} s   (asked: 10 s for 1000)")


def memory(vmcore: Path, directory: Path, many: int) -> None:
    peaks = {}
    for count in (10, many):
        heap = linked(vmcore, directory / f"links{count}", count)
        out = directory / f"out-links{count}"
        argv = [*VMBOX, "triage", str(heap), "-o", str(out), "-q", "--engine", NOWHERE]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                peaks[count] = peak(process.pid) or peaks.get(count, 0)
                time.sleep(0.05)
    print(f"coordinator's peak: {peaks[10]} MB for 10 dumps, {peaks[many]} MB for {many} (asked: the same)")


def peak(pid: int) -> int:
    """Returns the peak memory of that process alone, in megabytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def linked(vmcore: Path, heap: Path, count: int) -> Path:
    for number in range(count):
        (heap / str(number)).mkdir(parents=True, exist_ok=True)
        os.link(vmcore, heap / str(number) / "vmcore")
    return heap


def vmbox(*arguments: object) -> bytes:
    done = subprocess.run([*VMBOX, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()

"""`vmbox decode` of a log with many symbols, beside a bare container of the same image.

    python -m benchmarks.decode [--symbols N] [--rounds N] [--script decode_stacktrace.sh] VMCORE

The log names functions of the dump's vmlinux, drawn by chance with the same seed each time; image and debuginfo are
there. The kernel's own script needs `addr2line` and `nm` on this host, and minutes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.session import seconds, vmbox
from sandbox import image, profiles
from sandbox.case import provision
from sandbox.case.options import OpenOptions
from sandbox.debuginfo.symbols import SymbolTable
from sandbox.dump import identify
from sandbox.engine import ContainerSpec, connect
from sandbox.progress import QUIET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", type=Path, metavar="VMCORE")
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--script", type=Path, metavar="FILE")
    given = parser.parse_args()
    vmcore = identify(given.vmcore)
    found = provision.find_debuginfo(vmcore, OpenOptions(), QUIET, index=False)
    head = f"CPU: 0 PID: 1 Comm: init Not tainted {vmcore.release} {vmcore.utsname_version}"
    lines = [head, "Call Trace:", *(f" {symbol}" for symbol in symbols(found.vmlinux, given.symbols))]
    with tempfile.TemporaryDirectory(prefix="vmbox-bench-") as directory:
        log = Path(directory) / "log"
        log.write_text("".join(f"[    1.000000] {line}\n" for line in lines))
        mine, bare = [], []
        vmbox("decode", log)
        for _ in range(given.rounds):
            mine.append(seconds(lambda: vmbox("decode", log)))
            bare.append(seconds(container))
        print(
            f"vmbox decode, {given.symbols} symbols: {_spread(mine)}; the engine and a container alone: {_spread(bare)}"
        )
        if given.script is not None:
            argv = ["bash", str(given.script), str(found.vmlinux)]
            began = time.monotonic()
            subprocess.run(argv, input=log.read_bytes(), capture_output=True, check=True)
            theirs = time.monotonic() - began
            print(f"decode_stacktrace.sh: {theirs:.1f} s; vmbox: {statistics.median(mine) / theirs:.3f} of it")


def symbols(vmlinux: Path, count: int) -> list[str]:
    """symbol+0xoffset/0xsize of functions that have their name alone."""
    names = [line.split()[2] for line in nm(vmlinux) if line.split()[1] in "tT" and "." not in line.split()[2]]
    dice = random.Random(1)
    dice.shuffle(names)
    table = SymbolTable(vmlinux).find(set(names[: 4 * count]))
    single = [(name, max(places[0].sizes)) for name, places in table.items() if len(places) == 1 and places[0].sizes]
    return [f"{name}+{dice.randrange(1, size):#x}/{size:#x}" for name, size in single if size > 16][:count]


def nm(vmlinux: Path) -> list[str]:
    told = subprocess.run(["nm", "--defined-only", vmlinux], check=True, capture_output=True, text=True).stdout
    return sorted(line for line in told.splitlines() if len(line.split()) == 3)


def container() -> None:
    """What no work in a container can be faster than: Python, the engine, a container that ends at once."""
    code = "from benchmarks import decode; decode.bare()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def bare() -> None:
    profile = next(one for one in profiles.load().values() if one.latest)
    engine = connect(None)
    try:
        b"".join(engine.run(ContainerSpec(image=image.ensure(profile, engine, QUIET), argv=["true"])))
    finally:
        engine.close()


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()

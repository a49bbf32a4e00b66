"""Flattened dumps of many pieces, and compressed ones: python -m benchmarks.views VMCORE [BYTES_OF_A_PIECE]

Measures, in processor time and by the clock: the index of a flattened file (made from VMCORE here), the same when it is
kept, and unpacking of gz, zst, xz and lz4 beside their own programs. Needs twice the dump's size in $TMPDIR.
"""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sandbox.dump import identify_alone, piece_index, unpack
from sandbox.dump.source import FileSource


def flatten(plain: Path, flat: Path, size: int) -> None:
    with plain.open("rb") as source, flat.open("wb") as out:
        out.write((b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(4096, b"\0"))
        at = 0
        while piece := source.read(size):
            out.write(struct.pack(">qq", at, len(piece)) + piece)
            at += len(piece)
        out.write(b"\xff" * 16)


def used(work: Callable[[], object]) -> str:
    """Processor time of this process and its children, and time by the clock."""
    before, began = _processor(), time.monotonic()
    work()
    return f"{_processor() - before:7.2f} s of processors, {time.monotonic() - began:7.2f} s"


def _processor() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in both)


def main() -> None:
    plain, piece = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    print(f"{plain}: {plain.stat().st_size / 1e6:,.0f} MB; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        flat, kept = place / "flat", place / "kept"
        kept.mkdir(mode=0o700)
        flatten(plain, flat, piece)
        with FileSource(flat) as source:
            print("index, first  ", used(lambda: piece_index.keep(source, kept)))
            print("index, second ", used(lambda: piece_index.find(source, kept)))
        print("identify      ", used(lambda: identify_alone(flat, kept=lambda: kept)))
        flat.unlink()
        programs = {"zst": ["zstd", "-q"], "gz": ["gzip", "-1"], "xz": ["xz", "-0"], "lz4": ["lz4", "-q"]}
        for suffix, program in programs.items():
            packed = place / f"vmcore.{suffix}"
            with packed.open("wb") as out:
                subprocess.run([*program, "-c", str(plain)], stdout=out, check=True)
            into = place / suffix
            vmcore = identify_alone(packed, log=False)
            print(f"{suffix:4} unpack   ", used(lambda: unpack(vmcore, into)))  # noqa: B023 - called at once
            next(into.glob("*/vmcore")).unlink()
            argv = [program[0], "-d", "-c", str(packed)]
            with (place / "out").open("wb") as out:
                print(f"{suffix:4} {program[0]:5} -d ", used(lambda: subprocess.run(argv, stdout=out, check=True)))  # noqa: B023 - called at once
            packed.unlink()


if __name__ == "__main__":
    main()

"""Coverage-guided fuzzing of the dump reader with atheris (libFuzzer), by hand and for as long as there is time.

    pip install --group fuzz
    python tests/fuzz/identify.py [CORPUS] [-max_total_time=3600 and other options of libFuzzer]

Starts from the fixtures, written dumps of every shape, and all of them wrapped. A finding is any exception but
VmboxError, more than 2 s of processor time, or 200 MiB above what the fuzzer itself takes; libFuzzer then leaves the
input in a file crash-*, which `identify.py crash-…` runs again.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "unit" / "dump"))

with atheris.instrument_imports(include=["sandbox"]):
    import dump_writer

    from sandbox.dump import identify, read_log
    from sandbox.errors import VmboxError

SECONDS = 2.0
KIBIBYTES = 200 << 10
# The fuzzer's own instrumentation slows Python down by about this much.
SLOWDOWN = 4

_directory = tempfile.TemporaryDirectory(prefix="vmbox-fuzz-", dir="/dev/shm")
PATH = Path(_directory.name) / "vmcore"


def seeds() -> list[bytes]:
    real = [path.read_bytes() for path in sorted((TESTS / "fixtures" / "dumps").iterdir()) if path.suffix != ".py"]
    real += [path.read_bytes() for path in sorted((TESTS / "fixtures" / "archives").iterdir())]
    info = b"OSRELEASE=6.1.0-test\nBUILD-ID=" + b"ab" * 20 + b"\nPAGESIZE=4096\nCRASHTIME=1700000000\n"
    pages = {pfn: bytes([pfn % 256]) * 4096 for pfn in (0, 3, 4, 70, 999)}
    small = [
        dump_writer.kdump(pages, info),
        dump_writer.kdump(pages, info, order="big"),
        dump_writer.kdump(pages, info, bits=32),
        dump_writer.kdump(pages, info, bits=32, padded=True),
        dump_writer.kdump(pages, info, split=(0, 50)),
        dump_writer.kdump(pages, b"", signature=b"DISKDUMP", status=8),
        dump_writer.elf(pages, info),
        dump_writer.elf(pages, info, many=True),
        dump_writer.elf(pages, info, order="big", machine=22),
        dump_writer.elf(pages, info, bits=32, machine=3),
    ]
    small += [dump_writer.flatten(one, piece=500) for one in small[:8:6]]
    wrapped = []
    for one in (small[0], small[6], real[-1]):
        wrapped += [gzip.compress(one), bz2.compress(one), lzma.compress(one, preset=0)]
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            member = tarfile.TarInfo("127.0.0.1-2026-01-02-03:04:05/vmcore")
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("vmcore", one)
        wrapped += [tar.getvalue(), packed.getvalue(), gzip.compress(tar.getvalue())]
    return real + small + wrapped


def one_input(content: bytes) -> None:
    PATH.write_bytes(content)
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        identify(PATH)
        for _ in read_log(PATH):
            pass
    except VmboxError as error:
        message = error.message
        assert "\n" not in message
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < KIBIBYTES, f"{grown >> 10} MiB more"
    taken = time.process_time() - start
    assert taken < 2 * SECONDS * SLOWDOWN, f"{taken:.1f} s"


def mutate(content: bytes, limit: int, seed: int) -> bytes:
    """Half of the time where the structure is, not somewhere in a page; sometimes cut."""
    dice = random.Random(seed)
    if len(content) < 16384 or dice.random() < 0.4:
        return atheris.Mutate(content, limit)
    if dice.random() < 0.1:
        return content[: dice.randrange(len(content))]
    start = dice.choice((0, 0, 4096, 4096, 8192, 12288, dice.randrange(len(content))))
    size = dice.choice((64, 464, 1024, 4096))
    piece = bytearray(content[start : start + size])
    for _ in range(dice.randint(1, 4)):
        at, width = dice.randrange(max(1, len(piece))), dice.choice((1, 2, 4, 8))
        piece[at : at + width] = dice.choice((b"\0" * width, b"\xff" * width, b"\x7f" + b"\xff" * 7, os.urandom(width)))
    return (content[:start] + bytes(piece) + content[start + size :])[:limit]


def main() -> None:
    corpus = next((path for path in map(Path, sys.argv[1:]) if path.is_dir()), None)
    if corpus is None:
        corpus = Path(tempfile.mkdtemp(prefix="vmbox-corpus-"))
        sys.argv.append(str(corpus))
    for number, content in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(content)
    atheris.Setup([*sys.argv, "-max_len=400000", "-timeout=30"], one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

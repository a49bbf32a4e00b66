"""What all targets share: what a finding is, how an input is changed, and the start of libFuzzer.

A finding is any exception but the one that each reader names for damage, more than 2 s of processor time, or 200 MiB
above what the fuzzer itself takes. libFuzzer then leaves the input in a file crash-*, which
`FILE.py TARGET crash-…` runs again.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import atheris

SECONDS = 2.0
KIBIBYTES = 200 << 10
# The fuzzer's own instrumentation slows Python down by about this much.
SLOWDOWN = 4

Target = tuple[Callable[[bytes], None], Callable[[], list[bytes]]]
"""A reader, and what makes its first inputs."""


def mutate(content: bytes, limit: int, seed: int) -> bytes:
    """Half of the time a number in the bytes, which libFuzzer seldom makes large; or cut, or a piece repeated."""
    dice = random.Random(seed)
    if not content or dice.random() < 0.5:
        return atheris.Mutate(content, limit)
    if dice.random() < 0.1:
        return content[: dice.randrange(len(content))]
    if dice.random() < 0.1:
        start, size = dice.randrange(len(content)), dice.choice((1, 2, 8, 60, 512))
        return (content[:start] + content[start : start + size] * dice.choice((2, 50, 5000)) + content[start:])[:limit]
    made = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at, width = dice.randrange(len(made)), dice.choice((1, 2, 4, 8))
        word = dice.choice((b"\0" * width, b"\xff" * width, b"\x7f" + b"\xff" * (width - 1), os.urandom(width)))
        made[at : at + width] = word
    return bytes(made)[:limit]


def check_line(message: str) -> None:
    """An error is one line, whatever the input was."""
    assert "\n" not in message


def fuzz(targets: Mapping[str, Target]) -> None:
    """Run the target that the first argument names; the others are a corpus and options of libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"name one of {', '.join(targets)}")
    read, seeds = targets[sys.argv.pop(1)]

    def one_input(content: bytes) -> None:
        start = time.process_time()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        read(content)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < KIBIBYTES, f"{grown >> 10} MiB more"
        taken = time.process_time() - start
        assert taken < SECONDS * SLOWDOWN, f"{taken:.1f} s"

    corpus = next((path for path in map(Path, sys.argv[1:]) if path.is_dir()), None)
    if corpus is None and not any(Path(word).is_file() for word in sys.argv[1:]):
        corpus = Path(tempfile.mkdtemp(prefix="vmbox-corpus-"))
        sys.argv.append(str(corpus))
    if corpus is not None:
        for number, content in enumerate(seeds()):
            (corpus / f"seed-{number}").write_bytes(content)
    atheris.Setup([*sys.argv, "-max_len=200000", "-timeout=30"], one_input, custom_mutator=mutate)
    atheris.Fuzz()

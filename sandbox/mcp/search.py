"""Lines that match a regular expression, within a limit of time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import UsageError
from sandbox.host import decode

MOST: Final = 2000
"""Lines that are given back."""
_PATIENCE: Final = 5.0
"""Seconds."""
_LONGEST: Final = 1000
"""Characters of a pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchingLine:
    name: str
    """Of the text."""
    number: int
    """From 1."""
    line: str
    """Cut to what is around the match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    lines: tuple[MatchingLine, ...] = ()
    more: bool = False
    error: str | None = None


def search(
    pattern: str, texts: Sequence[tuple[str, str]], *, ignore_case: bool, patience: float = _PATIENCE
) -> Matches:
    """The lines of `texts`, (name, text), that match. Raises `UsageError` for a pattern that is none or takes too long.

    It runs in a process of its own, which is ended after `patience` seconds: some patterns take longer than the
    universe has existed.
    """
    if not pattern or len(pattern) > _LONGEST:
        raise UsageError(f"a pattern has 1 to {_LONGEST} characters", hint="a regular expression of Python")
    request = {"pattern": pattern, "ignore_case": ignore_case, "most": MOST, "texts": texts}
    program = Path(__file__).with_name("matching.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(program)],
            input=json.dumps(request).encode() + b"\n",
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"the pattern takes longer than {patience:g} seconds", hint="no repetition within a repetition"
        ) from None
    if done.returncode:
        raise UsageError("the pattern takes more memory than there is for it", hint="a shorter one")
    found = decode.decode(Matches, decode.parse_json(done.stdout))
    if found.error is not None:
        raise UsageError(f"the pattern is none: {found.error}", hint="a regular expression of Python")
    return found

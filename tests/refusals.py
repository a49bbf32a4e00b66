"""Commands, right and wrong, and what each debugger answers: whether it refused is recorded in tests/fixtures/refusals.

Recorded by:  vmbox run DUMP --with crash --json -i tests/fixtures/refusals/commands | python tests/refusals.py NAME
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final, TypedDict

_DIRECTORY: Final = Path(__file__).parent / "fixtures" / "refusals"
_MOST: Final = 400
"""Characters that are kept of an answer: refusals are short."""


class Answer(TypedDict):
    output: str
    refused: bool


def commands() -> list[str]:
    return (_DIRECTORY / "commands").read_text().splitlines()


def recorded() -> dict[str, dict[str, Answer]]:
    """By debugger, e.g. "crash 7.2.9" or "drgn without debuginfo", and by command."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(_DIRECTORY.glob("*.json"))}


def _kept(answer: dict[str, str]) -> Answer:
    output = answer["output"]
    # The words of vmbox are not the debugger's.
    own = [line for line in output.splitlines(keepends=True) if not line.startswith(("vmbox: ", "hint: "))]
    text = "".join(own)
    if len(text) > _MOST:
        lines = text[:_MOST].splitlines(keepends=True)
        text = "".join(lines[:-1]) or text[:_MOST]
    return Answer(output=text, refused=answer["status"] == "error")


if __name__ == "__main__":
    answers = {one["command"]: _kept(one) for one in map(json.loads, sys.stdin)}
    (_DIRECTORY / f"{sys.argv[1]}.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")

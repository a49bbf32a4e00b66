"""The process in which a regular expression is matched: Python's can take longer than anyone waits, and no thread ends.

    python -I -S matching.py

Standard input has one line of JSON, {"pattern", "ignore_case", "most", "texts": [[name, text], …]}. The answer is
{"lines": [{"name", "number", "line"}, …], "more": whether there were others} or {"error": why the pattern is none}. The
caller ends the process when it takes too long. It imports nothing of vmbox.
"""

from __future__ import annotations

import json
import re
import resource
import sys

LONGEST_LINE = 1 << 16
"""Characters of a line that are looked at."""
SHOWN = 500
"""Characters of a line that are given back, around what matches."""
_MEMORY = 1 << 30


def match(request: dict[str, object]) -> dict[str, object]:
    pattern, texts, most = request["pattern"], request["texts"], request["most"]
    assert isinstance(pattern, str) and isinstance(texts, list) and isinstance(most, int)  # noqa: S101, PT018 - its own caller's words
    try:
        wanted = re.compile(pattern, re.IGNORECASE if request["ignore_case"] else 0)
    except (re.error, RecursionError, OverflowError) as error:
        return {"error": str(error)}
    lines: list[dict[str, object]] = []
    for name, text in texts:
        for number, line in enumerate(text.splitlines(), 1):
            found = wanted.search(line, 0, LONGEST_LINE)
            if found is not None:
                if len(lines) == most:
                    return {"lines": lines, "more": True}
                begin = max(0, min(found.start() - SHOWN // 4, len(line) - SHOWN))
                lines.append({"name": name, "number": number, "line": line[begin : begin + SHOWN]})
    return {"lines": lines, "more": False}


if __name__ == "__main__":
    # A pattern can ask for any memory, too.
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    json.dump(match(json.loads(sys.stdin.readline())), sys.stdout)

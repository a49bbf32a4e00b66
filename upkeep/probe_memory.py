"""Remembers what places said, so that a probe that was ended goes on where it was."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from sandbox.host import mirrors
from upkeep.asking import Seen
from upkeep.probes import Probe

_FRESH: Final = 24 * 3600
"""Seconds."""


class Memory:
    """One line of JSON for each answer, in a file."""

    def __init__(self, file: Path, *, forget: bool = False) -> None:
        """With `forget`, what the file has is not used."""
        self._file = file
        self._known: dict[str, tuple[bool, str]] = {}
        self._lock = threading.Lock()
        since = time.time() - _FRESH
        if not forget and file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    key, good, said, at = json.loads(line)
                except ValueError:
                    # The last line of a probe that was killed.
                    continue
                if at >= since:
                    self._known[key] = (good, said)

    def __enter__(self) -> Self:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        torn = self._file.is_file() and self._file.read_bytes()[-1:] not in {b"", b"\n"}
        self._out = self._file.open("a", encoding="utf-8")
        if torn:
            # A probe that was killed has half written its last line.
            self._out.write("\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._out.close()

    def find(self, probe: Probe) -> Seen | None:
        """What the place said in the last day."""
        with self._lock:
            known = self._known.get(_key(probe))
        return None if known is None else Seen(probe=probe, good=known[0], said=known[1])

    def add(self, seen: Seen) -> Seen:
        """Remember an answer; that a place could not be reached is none. Returns it."""
        if not seen.reached:
            return seen
        with self._lock:
            self._known[_key(seen.probe)] = (seen.good, seen.said)
            self._out.write(json.dumps([_key(seen.probe), seen.good, seen.said, int(time.time())]) + "\n")
            self._out.flush()
        return seen


def _key(probe: Probe) -> str:
    return " ".join((probe.kind, probe.arch, mirrors.rewrite(probe.url), *probe.wanted, *probe.keys))

"""The process that fetches image and debuginfo of one dump, while a case answers without.

    python -m sandbox.case.arrival_process

It is started by `sandbox.case.arrival`. The request comes as a line of JSON on standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from sandbox import render
from sandbox.case.arrival import RESULT, Result
from sandbox.case.options import OpenOptions
from sandbox.case.provision import prefetch
from sandbox.case.what_to_open import identified
from sandbox.errors import VmboxError
from sandbox.host import config
from sandbox.host.files import write_atomically

_NICE: Final = 10
"""The first answer goes before the fetch."""


def main() -> None:
    """Begins the fetch in a process that has no parent, and ends."""
    request = json.loads(sys.stdin.readline())
    if os.fork():
        return
    place, lock = Path(request["place"]), int(request["lock"])
    # Engines and programs that are started must not hold it.
    os.set_inheritable(lock, False)
    os.write(lock, str(os.getpid()).encode())
    os.ftruncate(lock, os.lseek(lock, 0, os.SEEK_CUR))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.nice(_NICE)
    _write(place, _fetch(request))


def _write(place: Path, result: Result) -> None:
    # The place is gone when the case was closed in this moment.
    with contextlib.suppress(OSError):
        write_atomically(place / RESULT, json.dumps(asdict(result)).encode(), mode=0o600)


def _fetch(request: dict[str, Any]) -> Result:
    reporter = render.reporter(quiet=False)
    try:
        config.replace_overrides(request["settings"])
        options = OpenOptions(engine=request["engine"])
        prefetch(identified(Path(request["dump"]), reporter), options, reporter, always_index=False)
    except VmboxError as error:
        return Result(exit_code=error.exit_code, message=error.message, hint=error.hint, detail=error.detail)
    return Result()


if __name__ == "__main__":
    main()

"""A ticket lock for the clients of a case: first come, first served.

A file lock alone is not fair: a process that asks when it is released gets it, and before Linux 5.0 all waiters
race for it. So each caller draws a number, and waits for those that came before it to end, however they end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Final

from sandbox.progress import QUIET, Reporter

_SILENT: Final = 0.3
"""Seconds of waiting that are not worth a word."""

_PREFIX: Final = "turn-"
_QUEUE: Final = "queue"


class TicketLock:
    """One caller's turn: drawn, waited for, and given back with `close` or by dying."""

    def __init__(self, place: Path, reporter: Reporter = QUIET) -> None:
        """Waits for the turn with the case whose directory is `place`. Raises OSError when the case is gone."""
        self._descriptors: list[int] = []
        self._path: Path | None = None
        try:
            lock = self._open(place / "lock", os.O_RDONLY)
            self._await_earlier(place, self._draw(place), reporter)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._path is not None:
            # The end of a use counts for the idle limit, as its begin does.
            with contextlib.suppress(OSError):
                os.utime(self._path.with_name(_QUEUE))
            self._path.unlink(missing_ok=True)
            self._path = None
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _draw(self, place: Path) -> int:
        counter = os.open(place / _QUEUE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(counter, fcntl.LOCK_EX)
            number = int(os.pread(counter, 32, 0) or b"0") + 1
            os.pwrite(counter, b"%d" % number, 0)
            self._path = place / f"{_PREFIX}{number}"
            fcntl.flock(self._open(self._path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
        finally:
            os.close(counter)
        return number

    @staticmethod
    def _await_earlier(place: Path, number: int, reporter: Reporter) -> None:
        names = (name.removeprefix(_PREFIX) for name in os.listdir(place) if name.startswith(_PREFIX))  # noqa: PTH208 - a Path for each name costs more than all the rest
        # The nearest first: when it has had its turn, so have those before it, unless it gave up.
        earlier = sorted((int(name) for name in names if int(name) < number), reverse=True)
        silent_until, told = time.monotonic() + _SILENT, False
        for left, one in zip(range(len(earlier), 0, -1), earlier, strict=True):
            path = place / f"{_PREFIX}{one}"
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                while not _free(descriptor):
                    if time.monotonic() < silent_until:
                        time.sleep(0.002)
                        continue
                    if not told:
                        reporter.notice(f"waiting: the case is in use by {left} other{'s' if left > 1 else ''}")
                        told = True
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                # A process that died left it behind.
                path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        self._descriptors.append(descriptor)
        return descriptor


def _free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

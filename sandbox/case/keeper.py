"""The process of the host that ends a case which does not keep its idle limit itself, because a dump took it over.

    python -I -S keeper.py DIRECTORY PIDFD COMMAND [ARGUMENT …]

`sandbox.case.idle` starts it with a case. It looks at what is in the case's directory and outside of the mount: how
long the case may be unused, the turns of clients, their locks. When the case should have ended long ago, it runs
COMMAND, which closes it; one that lives on is killed. PIDFD is of the first process of the container, or -1 where that
is out of sight. The process ends with the case. A byte in the FIFO `keeper` has it look again at once.

It lives as long as the case: it imports nothing but what Python has loaded already.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time

FIFO = "keeper"
"""In a case's directory. It has a reader while the keeper lives."""
LIMIT = "idle"
"""In a case's directory: the seconds for which it may be unused; 0 for ever."""

_LOOKS = 8
"""Looks at a case within its limit. Only the time between them counts, no clock that may be set."""
_GRACE = 60.0
"""Seconds, at most, that a case has to end by itself."""
_END = 10.0
"""Seconds in which a container ends."""


def reach(directory: str) -> int:
    """A descriptor for `wake` of the keeper of the case in `directory`; -1 if there is none."""
    try:
        return os.open(f"{directory}/{FIFO}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1


def wake(fifo: int) -> None:
    """Has a keeper look at its case, and closes its descriptor."""
    if fifo >= 0:
        try:  # noqa: SIM105 - contextlib is not loaded
            os.write(fifo, b"\n")
        except OSError:
            pass  # full of such bytes, or the keeper has just ended
        os.close(fifo)


def limit_of(directory: str) -> int | None:
    """The idle limit of the case in `directory`, in seconds; 0: none. None when there is no such case any more."""
    try:
        with open(f"{directory}/{LIMIT}", encoding="ascii") as file:  # noqa: PTH123 - pathlib costs more than all the rest
            return int(file.read())
    except (OSError, ValueError):
        return None


def is_in_use(directory: str) -> bool:
    """Whether a client has, or waits for, a turn with the case, or a program runs beside its debugger."""
    for name in os.listdir(directory):  # noqa: PTH208
        if name.startswith(("turn-", "shell-")):
            try:
                lock = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            finally:
                os.close(lock)
    return False


def _last_use(directory: str) -> int:
    try:
        return os.stat(f"{directory}/queue").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def main(directory: str, process: int, close: list[str]) -> None:
    """Wait for the end of the case in `directory`, and see to it. Return when there is nothing left to end."""
    poll = select.poll()
    wake = os.open(f"{directory}/{FIFO}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    poll.register(wake, select.POLLIN)
    watched = _watched(directory, process)
    for descriptor in watched:
        poll.register(descriptor, select.POLLIN if descriptor == process else 0)
    seen, since = -1, 0.0
    while True:
        limit = limit_of(directory)
        if limit is None:
            return
        now, used = time.monotonic(), _last_use(directory)
        if used != seen or is_in_use(directory):
            seen, since = used, now
        left = since + limit + min(limit, _GRACE) - now if limit else None
        if left is not None and left <= 0:
            os.spawnv(os.P_WAIT, close[0], close)  # noqa: S606 - our own interpreter
            if limit_of(directory) is not None and _last_use(directory) == used and not is_in_use(directory):
                _kill(process)
                return
            continue
        wait = None if left is None or limit is None else max(1.0, min(left, limit / _LOOKS)) * 1000
        for descriptor, _ in poll.poll(wait):
            if descriptor == wake:
                os.read(wake, 64)
            elif descriptor == process or process < 0:
                return
            elif not _ends(process):
                # No client finds the case any more, and its container lives.
                _kill(process)
                return


def _watched(directory: str, process: int) -> list[int]:
    """Descriptors that become ready when the case ends: of its first process, and of the FIFO that this one reads."""
    found = [process] if process >= 0 else []
    try:  # noqa: SIM105 - contextlib is not loaded
        found.append(os.open(f"{directory}/shared/ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        pass  # on another host, or ended already: then its directory tells
    return found


def _ends(process: int) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(_END * 1000))


def _kill(process: int) -> None:
    if process >= 0 and not _ends(process):
        import signal

        signal.pidfd_send_signal(process, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])

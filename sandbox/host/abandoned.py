"""Runs a command about files of a network file system in a process that can be left behind.

The kernel lets no process end whose request a FUSE server has taken and does not answer (`request_wait_answer` in
fs/fuse/dev.c), whatever signal it is sent. So the process that the user waits for touches no such file: a child does
the work, and is left to the kernel when it cannot end. What the child prints into a pipe goes through this process: the
reader of a pipe waits until no process has it open.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from sandbox.errors import Terminated
from sandbox.host.network_files import PATIENCE, does_not_answer

_SILENCE: Final = 2 * PATIENCE
"""Seconds that the child may wait for one answer, where it does not count them itself."""

_AFTER_SIGNAL: Final = 3.0
_AFTER_STATUS: Final = 1.0
"""Seconds that the child has to end, if a file system keeps it."""

_STEP: Final = 0.2
"""Seconds between two looks at a child that goes on."""

_OUTPUTS: Final = (1, 2)
_PIECE: Final = 1 << 16

_KILLED_WITH: Final = 1
"""PR_SET_PDEATHSIG of prctl(2)."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


def run(work: Callable[[], None], path: Path, of: str) -> NoReturn:
    """Does `work`, a command about a file at `path` of a network file system (`of`), in a child, and ends as it does.

    Raises `DumpUnreadable`, KeyboardInterrupt or `Terminated` in its place where it cannot end.
    """
    told, telling = os.pipe()
    relays = [(one, *os.pipe()) for one in _OUTPUTS if _is_pipe(one)]
    parent = os.getpid()
    # One that the caller ignores, as nohup does, stays ignored.
    awaited = {one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(told)
        for output, read_end, write_end in relays:
            os.dup2(write_end, output)
            os.close(read_end)
            os.close(write_end)
        _end_with(parent)
        _tell_status(work, telling)
    os.close(telling)
    os.set_blocking(told, False)
    copies = []
    for output, read_end, write_end in relays:
        os.close(write_end)
        copies.append(_Copy(read_end, output))
        copies[-1].start()
    try:
        status = _wait(child, told, awaited, path, of)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for copy in copies:
            copy.finish()
    if status < 0:
        # As the shell is to see it.
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        status = 128 - status
    sys.exit(status)


def _is_pipe(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class _Copy(threading.Thread):
    """Copies what the child prints. It stops when the reader of `output` is gone: EPIPE tells the child then."""

    def __init__(self, read_end: int, output: int) -> None:
        super().__init__(daemon=True)
        self._read_end = read_end
        self._output = output
        self._reading = False

    def run(self) -> None:
        with suppress(OSError):
            while piece := self._read():
                while piece:
                    piece = piece[os.write(self._output, piece) :]
        os.close(self._read_end)

    def finish(self) -> None:
        """Waits until all is copied. What else has the pipe open, when the child is gone, has a second for more."""
        quiet = 0.0
        while self.is_alive() and quiet < _AFTER_STATUS:
            self.join(_STEP)
            quiet = quiet + _STEP if self._reading else 0.0

    def _read(self) -> bytes:
        self._reading = True
        piece = os.read(self._read_end, _PIECE)
        self._reading = False
        return piece


def _end_with(parent: int) -> None:
    """Lets the kernel end this process when its parent is killed."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_KILLED_WITH, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _tell_status(work: Callable[[], None], telling: int) -> NoReturn:
    """Does the work. The status is told before this process ends, because a thread of it may keep it from that."""
    status: object = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
        raise
    except KeyboardInterrupt as end:
        status = 128 + getattr(end, "number", signal.SIGINT)
        raise
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        with suppress(OSError):
            os.write(telling, bytes([status & 0xFF if isinstance(status, int) else 1]))
    sys.exit(0)


def _wait(child: int, told: int, awaited: AbstractSet[int], path: Path, of: str) -> int:
    """The status of the child as `subprocess` has it."""
    received: int | None = None
    told_at: float | None = None
    since: float | None = None
    switches = status = 1
    while True:
        came = signal.sigtimedwait(awaited, _STEP)
        if (ended := os.waitpid(child, os.WNOHANG))[0]:
            return os.waitstatus_to_exitcode(ended[1])
        if came is not None and came.si_signo != signal.SIGCHLD:
            received = received or came.si_signo
            # A terminal sends its signals to all of the foreground.
            if came.si_code <= 0:
                os.kill(child, came.si_signo)
        now = time.monotonic()
        with suppress(BlockingIOError):
            if told_at is None:
                status, told_at = next(iter(os.read(told, 1)), status), now
        if told_at is not None and now - told_at > _AFTER_STATUS and _is_kept(child):
            os.kill(child, signal.SIGKILL)
            return status
        waits = _waits(child, child)
        if waits is None or waits != switches:
            switches, since = waits or -1, None if waits is None else now
        if since is None or now - since < (_SILENCE if received is None else _AFTER_SIGNAL):
            continue
        os.kill(child, signal.SIGKILL)
        if received is None:
            raise does_not_answer(path, of, _SILENCE)
        sys.stderr.write(f"vmbox: {path}: its file system ({of}) does not answer\n")
        raise KeyboardInterrupt if received == signal.SIGINT else Terminated(received)


def _is_kept(process: int) -> bool:
    """Whether a file system keeps any thread of a process."""
    try:
        threads = list(Path(f"/proc/{process}/task").iterdir())
    except OSError:
        return False
    return any(_waits(process, int(one.name)) is not None for one in threads)


def _waits(process: int, thread: int) -> int | None:
    """How often a thread has waited until now, if it waits inside a file system; None if not."""
    place = Path(f"/proc/{process}/task/{thread}")
    try:
        state = place.joinpath("stat").read_bytes().rpartition(b") ")[2][:1]
        # A request to FUSE is waited for as for a terminal, until a signal comes.
        if state != b"D" and not (state == b"S" and place.joinpath("wchan").read_bytes() == b"request_wait_answer"):
            return None
        status = place.joinpath("status").read_bytes()
        return int(status.partition(b"\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    except (OSError, ValueError, IndexError):
        return None

"""The warm crash of a case: a turn with it, its start, commands and their answers, and stopping them.

Nothing of an engine is needed here: a command and its answer are a write and a few reads. Every request is framed by a
fresh random marker, printed by crash itself, so that an answer is complete when its marker has come, and what an
earlier client left behind is recognised and thrown away.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from sandbox.errors import CommandTimeout, SessionDied, SessionFailed, UsageError
from sandbox.host import config
from sandbox.model import Case, Transcript
from sandbox.progress import QUIET, Reporter
from sandbox.session.channel import FifoChannel, last_words, new_marker
from sandbox.session.command_status import ErrorDetector
from sandbox.session.fallback import MINIMAL, START_MODES, StartMode, start_with_fallbacks
from sandbox.session.ticket_lock import TicketLock

Sink = Callable[[bytes], None]
"""Takes crash's output in pieces. Raising BrokenPipeError from it ends the command and not the session."""

MAX_COMMAND: Final = 1498
"""Bytes of one command: crash reads lines into a buffer of 1500 (BUFSIZE in defs.h), its end included."""

_ANSWER_TO_INTERRUPT: Final = 10.0
"""Seconds a crash that was interrupted has to come back to its prompt before it counts as hanging."""

_ANSWER_OF_IDLE: Final = 2.0
"""Seconds a crash at its prompt has to answer; longer, and it is still at somebody's command."""

_FLOOD: Final = 1 << 18
"""Bytes before our marker that can only be an abandoned command's output: a start says a few lines."""

_KILLED: Final = 128 + 9
"""How a shell tells that SIGKILL ended a process: the kernel's, for want of memory, when it is not ours."""

_KEPT: Final = 1 << 16
"""Bytes of a flood that are kept: more than any marker and any last words."""


class Session:
    """Exclusive use of a case's warm crash, for as long as the context lasts."""

    def __init__(self, case: Case, reporter: Reporter = QUIET) -> None:
        """Waits for those who came first, then for nobody. Raises `SessionDied` when the case has ended."""
        self._case = case
        self._reporter = reporter
        self._turn: TicketLock | None = None
        self._opened: FifoChannel | None = None
        self._ready_file = case.directory / "up"
        """There while crash is known to be at its prompt or at a command."""
        self._minimal = False
        """Whether crash runs without its gdb."""
        self.acquire()

    def acquire(self) -> None:
        """Takes a turn again that was given back with `pause`; `start` has to follow."""
        try:
            self._turn = TicketLock(self._case.directory, self._reporter)
            self._opened = open_channel(self._case)
        except OSError as error:
            self.close()
            if error.errno in {errno.ENXIO, errno.ENOENT}:
                raise SessionDied(f"the case of {self._case.dump.name} has ended") from error
            raise
        except BaseException:
            self.close()
            raise

    def release(self) -> None:
        """Lets others have their turn while there is nothing to do. Between commands only."""
        self.close()

    @property
    def case(self) -> Case:
        return self._case

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, modes: Sequence[StartMode] = START_MODES) -> bytes:
        """Waits until crash is at its prompt, starting it if it is not running; as it is, or with less if it must.

        Returns what crash said on the way: the warnings of its start, or nothing when it was already up. Raises
        `SessionFailed` with crash's own words when it does not come up on any mode.
        """
        return start_with_fallbacks(self._start, self._case.directory / "mode", self._reporter, modes)

    def set_idle(self, seconds: int) -> None:
        """Changes how long the case may be unused before it disposes of itself; 0: for ever."""
        self._channel.control("idle", str(seconds))

    @property
    def _channel(self) -> FifoChannel:
        if self._opened is None:
            raise SessionDied("the session is not open", hint="take a turn with acquire() first")
        return self._opened

    def _start(self, options: Sequence[str]) -> bytes:
        channel = self._channel
        self._minimal = MINIMAL in options
        warm = answered = self._ready_file.exists()
        ident, marker = self._ask_to_start(options)
        earlier = marker
        flood = False
        began = asked = time.monotonic()
        limit = config.current().start
        with self._waiting() as waiting:
            while True:
                at = channel.buffer.find(marker + b"\n")
                died = channel.find_exit()
                if at >= 0 and (died is None or died.begin > at):
                    said = channel.take(at + len(marker) + 1)[:at]
                    self._ready_file.touch()
                    return b"" if answered else said.replace(earlier + b"\n", b"")
                if died is not None:
                    said = channel.take(died.end)[: died.begin]
                    self._ready_file.unlink(missing_ok=True)
                    if died.ident == ident and died.status == _KILLED:
                        # With less of crash it would be no better, nor with a newer one.
                        raise self._died(died.status, said, "while it started")
                    if died.ident == ident:
                        raise SessionFailed(
                            "crash does not open this dump",
                            hint="vmbox info shows whether the dump is whole",
                            detail=said.decode(errors="replace").strip() or f"exit status {died.status}",
                        )
                    # Another crash than the one we asked for: it died before we came, or somebody else's start failed.
                    warm = answered = False
                    earlier = marker
                    ident, marker = self._ask_to_start(options)
                    continue
                if len(channel.buffer) > _FLOOD:
                    flood = True
                    del channel.buffer[:-_KEPT]
                if 0 < limit < time.monotonic() - began:
                    self._kill()
                    raise CommandTimeout(
                        f"crash did not come up on {self._case.dump.name} within {limit} s and was ended",
                        hint=f"one of many terabytes may need more: vmbox --set start=1h run {self._case.dump} -- bt",
                    )
                quiet = not channel.receive(0.3)
                if warm and (flood or time.monotonic() - asked > _ANSWER_OF_IDLE):
                    # It is our turn and crash is busy: with what somebody asked for who is gone. It may be silent, or
                    # print a little for ever.
                    self._reporter.notice("stopping a command that an earlier vmbox left behind")
                    self._interrupt()
                    warm = flood = False
                    answered = self._ready_file.exists()
                    ident, marker = self._ask_to_start(options)
                    asked = time.monotonic()
                elif quiet:
                    waiting.begin()

    def run(self, command: str, sink: Sink, *, timeout: float | None = None) -> Transcript:
        """Runs one crash command; its output goes to `sink` byte for byte, as it comes.

        Raises `CommandTimeout` after `timeout` seconds and KeyboardInterrupt on Ctrl-C, in both cases with the command
        stopped and the session usable, and `SessionDied` with crash's last words when crash is gone.
        """
        line = one_line(command)
        marker = new_marker()
        detector = ErrorDetector(command)
        began = time.monotonic()
        total = 0
        try:
            self._channel.send(line + b"\n" + self._echo(marker))
            for piece in self._until(marker, None if timeout is None else began + timeout):
                if piece:
                    total += len(piece)
                    detector.feed(piece)
                    sink(piece)
        except TimeoutError:
            self._interrupt()
            raise CommandTimeout(f"{command!r} was stopped after {timeout:g} seconds") from None
        except (KeyboardInterrupt, BrokenPipeError):
            self._interrupt()
            raise
        return Transcript(command=command, status=detector.status(), seconds=time.monotonic() - began, bytes=total)

    def _until(self, marker: bytes, deadline: float | None) -> Iterator[bytes]:
        """Yields output up to the marker's line, and takes the marker with it."""
        channel = self._channel
        wanted = marker + b"\n"
        # What must not be torn.
        keep = channel.longest_frame(marker)
        last = b""
        while True:
            at = channel.buffer.find(wanted)
            died = channel.find_exit()
            if died is not None and (at < 0 or died.begin < at):
                said = channel.take(died.end)[: died.begin]
                self._ready_file.unlink(missing_ok=True)
                yield said
                raise self._died(died.status, last + said)
            if at >= 0:
                yield channel.take(at + len(wanted))[:at]
                return
            piece = b""
            if len(channel.buffer) > keep:
                piece = channel.take(len(channel.buffer) - keep)
            elif channel.buffer and not channel.ready(0.05):
                # Nothing more is coming for now: show what there is, unless it may be the beginning of a marker.
                piece = channel.take(channel.buffer.rfind(b"\n") + 1)
            if piece:
                last = (last + piece)[-512:]
                yield piece
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            channel.receive(left)

    def _interrupt(self) -> None:
        """Stops the running command and waits for its end; what it still prints is thrown away.

        A crash that does not come back to its prompt is killed, and started anew by whoever needs it next. A second
        Ctrl-C does that at once.
        """
        channel = self._channel
        deadline = time.monotonic() + _ANSWER_TO_INTERRUPT
        told = False
        try:
            channel.control("int")
            while time.monotonic() < deadline:
                # A new marker each time: the signal may hit the very echo that was to print the last one.
                marker = new_marker()
                try:
                    channel.send(self._echo(marker))
                    for _ in self._until(marker, time.monotonic() + 1):
                        pass
                except TimeoutError:
                    if not told:
                        self._reporter.notice("crash has not stopped yet; Ctrl-C ends it")
                        told = True
                    continue
                return
            self._reporter.notice("crash does not answer the interrupt; it is ended, and started again when needed")
        except KeyboardInterrupt:
            self._kill()
            raise
        except SessionDied:
            self._reporter.notice("crash ended when it was interrupted; the next command starts it anew")
            return
        self._kill()

    def _kill(self) -> None:
        """Ends crash and waits until its script has seen that."""
        channel = self._channel
        channel.control("kill")
        deadline = time.monotonic() + _ANSWER_TO_INTERRUPT
        while (died := channel.find_exit()) is None:
            if time.monotonic() > deadline:
                # Not even SIGKILL: it hangs in the kernel, on the storage of the dump. The case cannot be used.
                self._reporter.notice("crash cannot be ended; its case is closed")
                channel.control("stop")
                return
            del channel.buffer[:-_KEPT]
            channel.receive(0.3)
        channel.take(died.end)
        self._ready_file.unlink(missing_ok=True)

    def _ask_to_start(self, options: Sequence[str]) -> tuple[bytes, bytes]:
        """Returns the id that the exit line carries if this start fails, and the marker crash prints when it is up."""
        ident = os.urandom(8).hex()
        marker = new_marker()
        self._channel.control("start", ident, *options)
        self._channel.send(self._echo(marker))
        return ident.encode(), marker

    def _echo(self, marker: bytes) -> bytes:
        """The command with which crash prints a marker on a line of its own.

        Its gdb does so within the process, also when it was told to take every line for gdb's (`set gdb on`), where
        "!echo" costs two forks of all of crash; without gdb there is only that. No alias can hide a command's name.
        """
        return b"!echo " + marker if self._minimal else b"gdb echo " + marker + rb"\n"

    def _died(self, status: int, said: bytes, when: str = "") -> SessionDied:
        detail = last_words(said)
        if status == _KILLED:
            # A limit is a container's, so it changes with the case.
            return SessionDied(
                " ".join(filter(None, ("crash was killed", when))) + ", most likely for want of memory",
                hint=f"ask for less, or give it more (0: all there is): vmbox close {self._case.dump}; "
                f"vmbox --set memory=16G run {self._case.dump} -- bt",
                detail=detail,
            )
        if status > 128:
            return SessionDied(f"crash died of signal {status - 128}", detail=detail)
        return SessionDied(f"crash ended with status {status}", hint="the next command starts it anew", detail=detail)

    @contextmanager
    def _waiting(self) -> Iterator[_Waiting]:
        waiting = _Waiting(self._reporter, f"Starting crash on {self._case.dump.name} ({self.case.release})")
        try:
            yield waiting
        finally:
            waiting.end()


class _Waiting:
    """A progress line that appears only when there is something to wait for."""

    def __init__(self, reporter: Reporter, title: str) -> None:
        self._step = reporter.step(title)
        self._shown = False

    def begin(self) -> None:
        if not self._shown:
            self._shown = True
            self._step.__enter__()

    def end(self) -> None:
        if self._shown:
            self._step.__exit__(None, None, None)


def one_line(command: str) -> bytes:
    """A command as crash reads it. Raises `UsageError` for one that crash cannot read or would not come back from."""
    line = command.strip().encode(errors="surrogateescape")
    if b"\n" in line or b"\0" in line:
        raise UsageError("a crash command is one line", hint="give several commands separated by --, or a file with -i")
    if len(line) > MAX_COMMAND:
        raise UsageError(
            f"the command has {len(line)} bytes, crash reads {MAX_COMMAND}", hint="split it, or use crash's < FILE"
        )
    if line in {b"!", b"|"}:
        raise UsageError(f"crash's {command.strip()} is a shell", hint="vmbox shell --tool bash VMCORE opens one")
    return line


def open_channel(case: Case) -> FifoChannel:
    """The way to a case's crash: its FIFOs, or through the engine where those are on another host."""
    if case.remote:
        from sandbox.session.remote_channel import RemoteChannel

        return RemoteChannel(case)
    return FifoChannel(case)

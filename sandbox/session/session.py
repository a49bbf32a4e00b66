"""The warm debugger of a case: a turn with it, its start, commands and their answers, and stopping them.

Nothing of an engine is needed here: a command and its answer are a write and a few reads. Every request is framed by a
fresh random marker, printed by the debugger itself, so that an answer is complete when its marker has come, and what an
earlier client left behind is recognised and thrown away.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from sandbox.case import store
from sandbox.case.places import DUMP, SLOTS, dump_paths, vmlinux
from sandbox.debugger import DEFAULT, Debugger, StartMode, having_command
from sandbox.errors import (
    CommandTimeout,
    DumpUnreadable,
    EngineError,
    SessionDied,
    SessionFailed,
    UsageError,
    pasteable,
)
from sandbox.host import config, network_files
from sandbox.log import Log
from sandbox.model import Case, CommandStatus, Transcript
from sandbox.progress import QUIET, Reporter
from sandbox.session.channel import FifoChannel, last_words, new_marker, without_markers
from sandbox.session.choice import Choice
from sandbox.session.fallback import mode_file, start_with_fallbacks
from sandbox.session.ticket_lock import TicketLock

_log = Log("session")

Sink = Callable[[bytes], None]
"""Takes output in pieces. Raising BrokenPipeError from it ends the command and not the session."""

_ANSWER_TO_INTERRUPT: Final = 10.0
"""Seconds a debugger that was interrupted has to return to its prompt before it counts as hanging."""

_ANSWER_OF_IDLE: Final = 2.0
"""Seconds a debugger at its prompt has to answer; after that it is still at an earlier command."""

_FLOOD: Final = 1 << 18
"""Bytes before our marker that can only be an abandoned command's output: a start says a few lines."""

_DENIED: Final = re.compile(
    rb"%b(?:-\d+)?'?: Permission denied|Permission denied: '%b" % (DUMP.encode(), DUMP.encode())
)
"""What a debugger says of a dump that its case may not read."""

DAMAGED: Final = (
    "pages of the dump are damaged: it was changed when it was written or copied. Copy it again, and compare sha256sum "
    "with its source's"
)
"""What is said once when a debugger cannot unpack a page."""

_KILLED: Final = 128 + 9
"""The status of a process that SIGKILL ended: when it was not vmbox, the kernel did, for lack of memory."""

_SAID: Final = 1 << 14
"""Bytes of what a debugger said that did not come up, which are shown."""

_KEPT: Final = 1 << 16
"""Bytes of a flood that are kept: more than any marker and any last words."""


class Session:
    """Exclusive use of the warm debugger of a case, for as long as the context lasts."""

    def __init__(
        self,
        case: Case,
        reporter: Reporter = QUIET,
        debugger: Debugger = DEFAULT,
        *,
        ends_case: bool = False,
        turn: TicketLock | None = None,
        choice: Choice | None = None,
    ) -> None:
        """Waits for earlier callers to finish, then holds the session exclusively.

        Raises `SessionDied` when the case has ended.

        `ends_case`: the case was opened for this session alone and is closed with it, also when this raises. `turn` is
        that of another session of this caller with the case, which keeps it (see `beside`). `choice` says why it is
        this debugger.
        """
        self.choice = choice or Choice(debugger=debugger.name, reason="")
        self.damaged = False
        """Whether the debugger could not unpack a page of the dump when it started."""
        self._case = case
        self._ends_case = ends_case
        self._reporter = reporter
        self._turn: TicketLock | None = None
        self._given_turn = turn
        self._opened: FifoChannel | None = None
        self._ready_file = case.directory / ("up" if debugger.slot == SLOTS[0] else f"up-{debugger.slot}")
        """Exists while a debugger is known to be at its prompt or at a command."""
        self._begun_file = self._ready_file.with_name(f"begun-{debugger.slot}")
        """Holds the debugger and the mode of the last start, also of one that its client did not wait for."""
        self._signal_file = self._ready_file.with_name(f"signal-{debugger.slot}")
        """Exists while a signal was asked for of which it is not known that it was sent."""
        self._debugger = debugger
        self._mode = debugger.start_modes[0]
        """As the debugger was started last."""
        self.acquire()

    def acquire(self) -> None:
        """Takes a turn again that was given back with `release`; `start` has to follow."""
        try:
            if self._given_turn is None:
                self._turn = TicketLock(self._case.directory, self._reporter)
            self._opened = open_channel(self._case, self._debugger.slot)
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
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def beside(self, debugger: Debugger) -> Session:
        """A session with another debugger of the same case, during this one's turn: both stay warm.

        It has to be closed before this session is, or gives its turn back; `start` has to follow. Raises `SessionDied`.
        """
        if debugger.slot == self._debugger.slot:
            raise ValueError(f"{debugger.name} has the FIFOs of {self._debugger.name}")
        return Session(self._case, self._reporter, debugger, turn=self._turn or self._given_turn)

    @property
    def doubt(self) -> str | None:
        """The reason why the debugger's answers may be wrong; None where none is known."""
        return self._case.doubts.get(self._debugger.name)

    @property
    def case(self) -> Case:
        return self._case

    @property
    def debugger(self) -> Debugger:
        return self._debugger

    def works(self, command: str) -> bool:
        """Whether `command` can be answered in the mode in which the debugger was started."""
        return self._debugger.works_in(self._mode, command)

    def close(self) -> None:
        """Gives the turn back, and closes the case that was opened for this session alone."""
        self.release()
        if self._ends_case:
            self.close_case()

    def close_case(self) -> None:
        """Gives the turn back and closes the case."""
        from sandbox.case.container import close

        self.release()
        self._ends_case = False
        close(self._case)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, modes: Sequence[StartMode] | None = None) -> bytes:
        """Waits until the debugger is at its prompt; starts it if it is not running, in the first mode that works.

        Returns what it printed on the way: the warnings of its start, or nothing when it was already up. Raises
        `SessionFailed` with its own words when it does not come up in any mode.
        """
        remembered = mode_file(self._case, self._debugger)
        return start_with_fallbacks(self._debugger, self._start, remembered, self._reporter, modes)

    def set_idle(self, seconds: int) -> None:
        """Changes how long the case may be unused before it disposes of itself; 0: for ever. Raises `UsageError`."""
        from sandbox.case import idle

        try:
            config.seconds(seconds)
        except ValueError as error:
            raise UsageError(f"idle must be {error}, not {seconds!r}") from None
        self._channel.control("idle", str(seconds))
        idle.record(self._case, seconds)

    @property
    def _channel(self) -> FifoChannel:
        if self._opened is None:
            raise SessionDied("the session is not open", hint="take a turn with acquire() first")
        return self._opened

    def _start(self, mode: StartMode) -> bytes:
        channel = self._channel
        self._mode = mode
        self._end_another_debugger()
        self._await_earlier_signals()
        warm = answered = self._ready_file.exists()
        ident, marker = self._ask_to_start()
        flood = False
        began = asked = time.monotonic()
        limit = config.current().start
        how = "is up already" if warm else "is started"
        _log.info("%s %s, in this mode: %s", self._debugger.name, how, mode.option or "as it is")
        with self._waiting() as waiting:
            while True:
                at = channel.buffer.find(marker + b"\n")
                died = channel.find_exit()
                if at >= 0 and (died is None or died.begin > at):
                    said = channel.take(at + len(marker) + 1)[:at]
                    self.damaged = self.damaged or self._debugger.damaged_page.search(said) is not None
                    self._ready_file.touch()
                    _log.info("%s is at its prompt after %.3f s", self._debugger.name, time.monotonic() - began)
                    return b"" if answered else without_markers(said)
                if died is not None:
                    self._forget()
                    said = channel.take(died.end)[: died.begin]
                    _log.info(
                        "%s ended with status %d after %.3f s",
                        self._debugger.name,
                        died.status,
                        time.monotonic() - began,
                    )
                    if died.ident == ident and died.status == _KILLED:
                        # A lesser mode would be no better, nor a newer version.
                        raise self._died(died.status, said, "while it started")
                    self.damaged = self.damaged or self._debugger.damaged_page.search(said) is not None
                    if died.ident == ident:
                        if _DENIED.search(said):
                            # No other debugger or mode reads it either.
                            raise self._unreadable()
                        raise SessionFailed(
                            f"{self._debugger.name} does not open this dump",
                            hint="vmbox info shows whether the dump is whole",
                            detail=said[-_SAID:].decode(errors="replace").strip() or f"exit status {died.status}",
                        )
                    # Another process than the one we asked for: it died before, or another client's start failed.
                    warm = answered = False
                    # Such lines may come without end, so the limit is looked at.
                    ident, marker = self._ask_to_start()
                if len(channel.buffer) > _FLOOD:
                    flood = True
                    del channel.buffer[:-_KEPT]
                if 0 < limit < time.monotonic() - began:
                    self._kill()
                    name = f"{self._debugger.name} did not come up on {self._case.dump.name}"
                    raise CommandTimeout(
                        f"{name} within {limit} s and was ended",
                        hint="one of many terabytes may need more: "
                        f"vmbox --set start=1h run {pasteable(self._case.dump)} -- bt",
                    )
                quiet = not channel.receive(0.3)
                if warm and (flood or time.monotonic() - asked > _ANSWER_OF_IDLE):
                    # It is our turn and the debugger is busy with a command whose client is gone. It may be silent, or
                    # print a little for ever.
                    self._reporter.notice("stopping a command that an earlier vmbox left behind")
                    self._interrupt()
                    warm = flood = False
                    answered = self._ready_file.exists()
                    ident, marker = self._ask_to_start()
                    asked = time.monotonic()
                elif quiet:
                    waiting.begin()

    def run(self, command: str, sink: Sink, *, timeout: float | None = None) -> Transcript:
        """Runs one command; its output goes to `sink` byte for byte, as it comes.

        Raises `CommandTimeout` after `timeout` seconds and KeyboardInterrupt on Ctrl-C, in both cases with the command
        stopped and the session usable, and `SessionDied` with the debugger's last words when it is gone.
        """
        complaints = self._debugger.complaints(command, self._case.versions.get(self._debugger.name, ""))

        def give(piece: bytes) -> None:
            complaints.feed(piece)
            sink(piece)

        total, seconds = self.ask(self._debugger.line(command), give, timeout, f"{command!r}")
        if complaints.unknown() and (other := having_command(command, self._debugger)) is not None:
            dump = pasteable(self._case.dump)
            words = f"may answer it: vmbox run {dump} --with {other.name} -- {command}"
            if self._case.vmlinux is None and other.needs_debuginfo:
                words = f"may answer it with debuginfo, which the next command uses: vmbox debuginfo fetch {dump}"
            total += _tell(sink, f"hint: {other.name} {words}")
        elif (said := complaints.missing() or complaints.note()) is not None:
            total += _tell(sink, f"vmbox: {said}")
        status = CommandStatus.ERROR if complaints.found() else CommandStatus.OK
        # Without the command: what a user searches for may be as secret as the answer.
        _log.debug("a command was answered (%s): %d bytes in %.3f s", status, total, seconds)
        return Transcript(command=command, status=status, seconds=seconds, bytes=total)

    def ask(self, line: bytes, sink: Sink, timeout: float | None, what: str) -> tuple[int, float]:
        """Sends a line as the debugger reads it; its output goes to `sink`.

        Returns bytes and seconds. Raises as `run` does.
        """
        if timeout is not None:
            config.time_limit(timeout)
        if not self._ready_file.exists():
            # It was ended after the last command: it did not answer an interrupt.
            self.start()
        marker = new_marker()
        began = time.monotonic()
        total = 0
        try:
            self._channel.send(line + b"\n" + self._echo(marker))
            for piece in self._until(marker, None if timeout is None else began + timeout):
                if piece:
                    total += len(piece)
                    sink(piece)
        except TimeoutError:
            self._interrupt()
            if timeout is None:
                raise SessionDied(f"{self._debugger.name} did not take {what}") from None
            raise CommandTimeout(f"{what} was stopped after {timeout:g} seconds") from None
        except (KeyboardInterrupt, BrokenPipeError):
            self._interrupt()
            raise
        return total, time.monotonic() - began

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
                self._forget()
                said = channel.take(died.end)[: died.begin]
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

        A debugger that does not return to its prompt is killed; the next command starts it again. A second Ctrl-C
        kills it at once.
        """
        channel = self._channel
        deadline = time.monotonic() + _ANSWER_TO_INTERRUPT
        told = False
        try:
            sent = self._signal(self._debugger.interrupt, deadline)
            while sent and time.monotonic() < deadline:
                # A new marker each time: the signal may hit the very echo that was to print the last one.
                marker = new_marker()
                try:
                    channel.send(self._echo(marker))
                    for _ in self._until(marker, time.monotonic() + 1):
                        pass
                except TimeoutError:
                    if not told:
                        self._reporter.notice(f"{self._debugger.name} has not stopped yet; Ctrl-C ends it")
                        told = True
                    continue
                return
            name = self._debugger.name
            self._reporter.notice(f"{name} does not answer the interrupt; it is ended, and started again when needed")
        except KeyboardInterrupt:
            self._kill()
            raise
        except SessionDied:
            self._reporter.notice(
                f"{self._debugger.name} ended when it was interrupted; the next command starts it again"
            )
            return
        except TimeoutError:
            self._reporter.notice(f"{self._debugger.name} cannot be interrupted; it is ended")
        self._kill()

    def _signal(self, name: str, deadline: float) -> bool:
        """Sends a signal, and waits until the session script has sent it, or the debugger has ended.

        Returns False after the deadline. Raises TimeoutError when the script does not take the word.
        The command may end by itself before, on a busy host long before: the signal would hit the next one, whose
        answer would end in the middle and look whole. So it is with one of a client that was killed here.
        """
        channel = self._channel
        self._signal_file.touch()
        channel.signal(self._debugger.slot, name)
        while channel.find_exit() is None and not channel.sent:
            if time.monotonic() > deadline:
                return False
            del channel.buffer[:-_KEPT]
            channel.receive(0.3)
        self._signal_file.unlink(missing_ok=True)
        return True

    def _await_earlier_signals(self) -> None:
        """Waits until what a client that was killed had asked of the session script is done."""
        if not self._signal_file.exists():
            return
        done = False
        with suppress(TimeoutError):
            done = self._signal("0", time.monotonic() + _ANSWER_TO_INTERRUPT)
        if not done:
            raise self._give_up()

    def _kill(self) -> None:
        """Ends the debugger and waits until the session script has seen that.

        Raises `SessionDied` when that does not happen: then the case is closed.
        """
        channel = self._channel
        deadline = time.monotonic() + _ANSWER_TO_INTERRUPT
        try:
            self._signal_file.touch()
            while (died := channel.find_exit()) is None:
                if time.monotonic() > deadline:
                    # It hangs in the kernel, on the storage of the dump, or the session script was stopped.
                    raise self._give_up()
                # Again and again: the script cannot kill one that it has only begun to start.
                channel.control("kill", str(self._debugger.slot))
                del channel.buffer[:-_KEPT]
                channel.receive(0.3)
        except TimeoutError:
            raise self._give_up() from None
        self._forget()
        self._signal_file.unlink(missing_ok=True)
        channel.take(died.end)

    def _forget(self) -> None:
        """Notes that the debugger has ended."""
        self._ready_file.unlink(missing_ok=True)
        self._begun_file.unlink(missing_ok=True)

    def _give_up(self) -> SessionDied:
        """Closes a case that obeys no more: its engine removes the container."""
        from sandbox.case.container import close

        try:
            close(self._case)
        except EngineError as error:
            of = None if self._case.remote else network_files.kind(self._case.dump)
            if of is None:
                raise
            # The kernel keeps a process of the container, which no engine can end.
            return SessionDied(
                f"{self._debugger.name} waits for the file system of {self._case.dump} ({of}), which does not answer",
                hint=f"when it does, or is ended: vmbox close {self._case.id}",
                detail=error.message,
            )
        return SessionDied(
            f"the case of {self._case.dump.name} did not obey any more and was closed",
            hint="the next command opens the dump again",
        )

    def _ask_to_start(self) -> tuple[bytes, bytes]:
        """Returns the id that the exit line carries if this start fails, and the marker printed when it is up."""
        ident = os.urandom(8).hex()
        marker = new_marker()
        case, debugger = self._case, self._debugger
        argv = debugger.told(debugger.session_argv(vmlinux(case), dump_paths(case.files), self._mode), case.place)
        self._begun_file.write_text(self._begun)
        try:
            self._channel.control("start", str(self._debugger.slot), ident, *argv)
            self._channel.send(self._echo(marker))
        except TimeoutError:
            raise self._give_up() from None
        return ident.encode(), marker

    def _echo(self, marker: bytes) -> bytes:
        """The command with which the debugger prints a marker on a line of its own."""
        return self._debugger.echo(marker, self._mode)

    @property
    def _begun(self) -> str:
        return f"{self._debugger.name} {self._mode.option}"

    def _end_another_debugger(self) -> None:
        """One debugger at a time has the FIFOs of a slot: another than ours is ended, and ours in another mode.

        That may be one whose client was killed while it started.
        """
        if self._begun_file.exists() and self._begun_file.read_text() not in {"", self._begun}:
            self._kill()

    def _unreadable(self) -> DumpUnreadable:
        dump = self._case.dump
        return DumpUnreadable(
            f"in its case, {dump} may not be read: who reads there has your uid, and perhaps none of your groups",
            hint=f"setfacl -m u:{os.geteuid()}:r {pasteable(dump)}   or copy it to a file of your own",
        )

    def _died(self, status: int, said: bytes, when: str = "") -> SessionDied:
        detail, name = last_words(said), self._debugger.name
        if status == _KILLED:
            # A limit is a container's, so it changes with the case.
            return SessionDied(
                " ".join(filter(None, (f"{name} was killed", when))) + ", most likely for want of memory",
                hint=f"ask for less, or give it more (0: all there is): vmbox close {pasteable(self._case.dump)}; "
                f"vmbox --set memory=16G run {pasteable(self._case.dump)} -- bt",
                detail=detail,
            )
        if status == 128 + signal.SIGBUS and (why := store.last_failure(self._case.directory)) is not None:
            return SessionDied(f"{name} could not read the dump: {why}", detail=detail)
        if status > 128:
            return SessionDied(f"{name} died of signal {status - 128}", detail=detail)
        return SessionDied(f"{name} ended with status {status}", hint="the next command starts it again", detail=detail)

    @contextmanager
    def _waiting(self) -> Iterator[_Waiting]:
        waiting = _Waiting(
            self._reporter, f"Starting {self._debugger.name} on {self._case.dump.name} ({self.case.release})"
        )
        try:
            yield waiting
        finally:
            waiting.end()


def _tell(sink: Sink, line: str) -> int:
    """Adds a line to an answer. Returns its bytes."""
    told = f"{line}\n".encode(errors="surrogateescape")
    sink(told)
    return len(told)


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


def open_channel(case: Case, slot: int) -> FifoChannel:
    """Opens the FIFOs of a slot of a case, or a stream through the engine where they are on another host."""
    if case.remote:
        from sandbox.session.remote_channel import RemoteChannel

        return RemoteChannel(case, slot)
    return FifoChannel(case, slot)

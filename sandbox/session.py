"""The warm crash of a case, spoken to through its FIFOs.

Nothing of an engine is needed here: a command and its answer are a write and a few reads. Every request is framed by a
fresh random marker, printed by crash itself before and after, so that an answer is complete when its marker has come,
and what an earlier client left behind is recognised and thrown away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from sandbox.errors import CommandTimeout, SessionDied, SessionFailed, VmboxError
from sandbox.model import Case, Transcript
from sandbox.progress import QUIET, Reporter

Sink = Callable[[bytes], None]
"""Takes crash's output in pieces. Raising BrokenPipeError from it ends the command and not the session."""

MAX_COMMAND: Final = 1498
"""Bytes of one command: crash reads lines into a buffer of 1500 (BUFSIZE in defs.h), its end included."""

_ANSWER_TO_INTERRUPT: Final = 10.0
"""Seconds a crash that was interrupted has to come back to its prompt before it counts as hanging."""

_ANSWER_OF_IDLE: Final = 2.0
"""Seconds a crash at its prompt has to answer; longer, and it is still at somebody's command."""

_CHUNK: Final = 1 << 16

_FLOOD: Final = 1 << 18
"""Bytes before our marker that can only be an abandoned command's output: a start says a few lines."""

_EXIT: Final = re.compile(rb" exit (\d+) ([0-9a-f]+)\n")
_EXIT_LINE: Final = 64
"""Bytes that an exit line has at most, after its token."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to start crash on a dump that it does not open as it is."""

    option: str
    lacks: str
    """What no longer works, in words."""


LADDER: Final = (
    Rung("", ""),
    Rung("--zero_excluded", "pages that are missing read as zeros, so what is shown may be wrong"),
    Rung("--no_modules", "modules are not known: addresses in them have no names"),
    Rung("--minimal", "only log, dis, rd, sym, eval, set and exit work"),
)
"""The salvage ladder. Each rung is tried when the one above it failed, and said."""


class Session:
    """Exclusive use of a case's warm crash, for as long as the context lasts."""

    def __init__(self, case: Case, reporter: Reporter = QUIET) -> None:
        """Waits for the case's other users, then for nobody. Raises `SessionDied` when the case has ended."""
        self._case = case
        self._reporter = reporter
        self._buffer = bytearray()
        self._token = case.token.encode()
        self._descriptors: list[int] = []
        try:
            self._lock = self._open("lock", os.O_RDONLY)
            self._take_turn()
            self._in = self._open("in", os.O_WRONLY | os.O_NONBLOCK)
            self._out = self._open("out", os.O_RDONLY | os.O_NONBLOCK)
            self._ctl = self._open("ctl", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            self.close()
            if error.errno in {errno.ENXIO, errno.ENOENT}:
                raise SessionDied(f"the case of {case.dump.name} has ended") from error
            raise
        except BaseException:
            self.close()
            raise
        os.set_blocking(self._in, True)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, ladder: Sequence[Rung] = LADDER) -> bytes:
        """Waits until crash is at its prompt, starting it if it is not running; as it is, or with less if it must.

        Returns what crash said on the way: the warnings of its start, or nothing when it was already up. Raises
        `SessionFailed` with crash's own words when it does not come up on any rung.
        """
        mode = self._case.directory / "mode"
        known = mode.read_text() if mode.exists() else ""
        # What opened the dump before will open it again.
        first = next((number for number, rung in enumerate(ladder) if rung.option == known), 0)
        for number, rung in enumerate(ladder[first:], first):
            try:
                said = self._start((rung.option,) if rung.option else ())
            except SessionFailed as error:
                if rung is ladder[-1]:
                    raise
                below = ladder[number + 1].option
                self._reporter.notice(f"crash cannot open the dump: {_reason(error)}; trying {below}")
            else:
                if rung.option and (said or rung.option != known):
                    self._reporter.notice(f"opened with {rung.option}: {rung.lacks}")
                mode.write_text(rung.option)
                return said
        raise SessionFailed("there is no way to start crash")

    def _start(self, options: Sequence[str]) -> bytes:
        up = self._case.directory / "up"
        warm = answered = up.exists()
        ident, marker = self._ask_to_start(options)
        earlier = marker
        flood = False
        quiet_since = time.monotonic()
        with self._waiting() as waiting:
            while True:
                at = self._buffer.find(marker + b"\n")
                died = self._find_exit()
                if at >= 0 and (died is None or died.begin > at):
                    said = bytes(self._buffer[:at])
                    del self._buffer[: at + len(marker) + 1]
                    up.touch()
                    return b"" if answered else said.replace(earlier + b"\n", b"")
                if died is not None:
                    said = bytes(self._buffer[: died.begin])
                    del self._buffer[: died.end]
                    up.unlink(missing_ok=True)
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
                if len(self._buffer) > _FLOOD:
                    flood = True
                    del self._buffer[:-_CHUNK]
                quiet = not self._receive(0.3)
                quiet_since = quiet_since if quiet else time.monotonic()
                if warm and (flood or time.monotonic() - quiet_since > _ANSWER_OF_IDLE):
                    # We have the lock and crash is busy: with what somebody asked for who is gone.
                    self._reporter.notice("stopping a command that an earlier vmbox left behind")
                    self._control("int")
                    warm = flood = False
                    ident, marker = self._ask_to_start(options)
                elif quiet:
                    waiting.begin()

    def run(self, command: str, sink: Sink, *, timeout: float | None = None) -> Transcript:
        """Runs one crash command; its output goes to `sink` byte for byte, as it comes.

        Raises `CommandTimeout` after `timeout` seconds and KeyboardInterrupt on Ctrl-C, in both cases with the command
        stopped and the session usable, and `SessionDied` with crash's last words when crash is gone.
        """
        line = _one_line(command)
        marker = self._marker()
        verdict = _Verdict(command)
        began = time.monotonic()
        total = 0

        def give(piece: bytes) -> None:
            nonlocal total
            if piece:
                total += len(piece)
                verdict.look(piece)
                sink(piece)

        try:
            self._send(line + b"\n!echo " + marker)
            for piece in self._until(marker, None if timeout is None else began + timeout):
                give(piece)
        except TimeoutError:
            self._interrupt()
            raise CommandTimeout(f"{command!r} was stopped after {timeout:g} seconds") from None
        except (KeyboardInterrupt, BrokenPipeError):
            self._interrupt()
            raise
        return Transcript(command=command, status=verdict.status(), seconds=time.monotonic() - began, bytes=total)

    def _until(self, marker: bytes, deadline: float | None) -> Iterator[bytes]:
        """Yields output up to the marker's line, and takes the marker with it."""
        wanted = marker + b"\n"
        # The longest thing that must not be torn: a marker, or the script's own exit line.
        keep = max(len(wanted), len(self._token) + _EXIT_LINE)
        while True:
            at = self._buffer.find(wanted)
            died = self._find_exit()
            if died is not None and (at < 0 or died.begin < at):
                yield bytes(self._buffer[: died.begin])
                del self._buffer[: died.end]
                (self._case.directory / "up").unlink(missing_ok=True)
                raise _died(died.status)
            if at >= 0:
                yield bytes(self._buffer[:at])
                del self._buffer[: at + len(wanted)]
                return
            if len(self._buffer) > keep:
                yield bytes(self._buffer[:-keep])
                del self._buffer[:-keep]
            elif self._buffer and not self._ready(0.05):
                # Nothing more is coming for now: show what there is, unless it may be the beginning of a marker.
                shown = self._buffer.rfind(b"\n") + 1
                yield bytes(self._buffer[:shown])
                del self._buffer[:shown]
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._receive(left)

    def _interrupt(self) -> None:
        """Stops the running command and waits for its end; what it still prints is thrown away."""
        deadline = time.monotonic() + _ANSWER_TO_INTERRUPT
        self._control("int")
        while time.monotonic() < deadline:
            # A new marker each time: the signal may hit the very echo that was to print the last one.
            marker = self._marker()
            try:
                self._send(b"!echo " + marker)
                for _ in self._until(marker, time.monotonic() + 1):
                    pass
            except TimeoutError:
                continue
            except SessionDied:
                self._reporter.notice("crash ended when it was interrupted; the next command starts it anew")
            return
        self._reporter.notice("crash does not answer the interrupt; its case is closed")
        self._control("stop")

    def _take_turn(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._reporter.notice("waiting for another command of this case to end")
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _control(self, word: str) -> None:
        os.write(self._ctl, word.strip().encode() + b"\n")

    def _send(self, lines: bytes) -> None:
        data = memoryview(lines + b"\n")
        try:
            while data:
                data = data[os.write(self._in, data) :]
        except BrokenPipeError:
            raise SessionDied("the case container has ended") from None

    def _ready(self, seconds: float | None) -> bool:
        return bool(select.select([self._out], [], [], seconds)[0])

    def _receive(self, seconds: float | None) -> bool:
        """Takes what has come, waiting up to `seconds`. Returns whether anything did."""
        if not self._ready(seconds):
            return False
        try:
            data = os.read(self._out, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            # End of file: the container is gone, and its script with it, without a word.
            raise SessionDied(
                "the case container has ended", detail=bytes(self._buffer).decode(errors="replace") or None
            )
        self._buffer += data
        return True

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(self._case.directory / name, flags | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        return descriptor

    @staticmethod
    def _marker() -> bytes:
        return b"vmbox-" + os.urandom(16).hex().encode()

    def _ask_to_start(self, options: Sequence[str]) -> tuple[bytes, bytes]:
        """Returns the id that the exit line carries if this start fails, and the marker crash prints when it is up."""
        ident = os.urandom(8).hex()
        marker = self._marker()
        self._control(" ".join(("start", ident, *options)))
        self._send(b"!echo " + marker)
        return ident.encode(), marker

    def _find_exit(self) -> _Exit | None:
        """The session script's line about a crash that has ended, if it has come whole."""
        at = self._buffer.find(self._token)
        if at < 0:
            return None
        found = _EXIT.match(self._buffer, at + len(self._token))
        if found is None:
            return None
        begin = at - 1 if at > 0 and self._buffer[at - 1] == ord("\n") else at
        return _Exit(begin=begin, end=found.end(), status=int(found[1]), ident=found[2])

    @contextmanager
    def _waiting(self) -> Iterator[_Waiting]:
        waiting = _Waiting(self._reporter, f"Starting crash on {self._case.dump.name} ({self._case.release})")
        try:
            yield waiting
        finally:
            waiting.end()


@dataclass(frozen=True, slots=True)
class _Exit:
    begin: int
    end: int
    status: int
    ident: bytes


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


class _Verdict:
    """Watches a command's output for crash's own error messages; crash has no exit codes.

    Errors are lines "<command>: …" (`error()` in tools.c, with the command's own name or "crash"), or a usage text.
    """

    def __init__(self, command: str) -> None:
        words = {word.encode() for word in re.findall(r"[a-z]+", command)}
        names = words | {_ALIASES[word] for word in words if word in _ALIASES} | {b"crash"}
        alternatives = b"|".join(re.escape(name) for name in sorted(names))
        first = re.escape(command.split(maxsplit=1)[0].encode()) if command.strip() else b"crash"
        complaint = rb"(?:%s|symbol not found): (?!WARNING|NOTE)\S" % alternatives
        self._wrong = re.compile(rb"(?m)^(?:%s|Usage:\s*\n\s+%s\b)" % (complaint, first))
        self._tail = b""
        self._found = False

    def look(self, piece: bytes) -> None:
        if self._found:
            return
        text = self._tail + piece
        whole = text.rfind(b"\n") + 1
        self._found = self._wrong.search(text, 0, whole) is not None
        # A usage text needs two lines to be seen, so the last whole one stays; what is longer is not crash's error.
        self._tail = text[max(text.rfind(b"\n", 0, max(whole - 1, 0)) + 1, len(text) - 4096) :]

    def status(self) -> str:
        return "error" if self._found or self._wrong.search(self._tail) else "ok"


_ALIASES: Final = {
    b"dmesg": b"log",
    b"man": b"help",
    b"g": b"gdb",
    b"px": b"p",
    b"pd": b"p",
    b"for": b"foreach",
    b"size": b"struct",
    b"lsmod": b"mod",
    b"h": b"help",
}
"""crash's built-in aliases (alias.c) whose error messages begin with another word than the user typed."""


def _one_line(command: str) -> bytes:
    line = command.strip().encode(errors="surrogateescape")
    if b"\n" in line or b"\0" in line:
        raise VmboxError("a crash command is one line", hint="give several commands separated by --, or a file with -i")
    if len(line) > MAX_COMMAND:
        raise VmboxError(
            f"the command has {len(line)} bytes, crash reads {MAX_COMMAND}", hint="split it, or use crash's < FILE"
        )
    return line


def _reason(error: SessionFailed) -> str:
    """The line of crash's words that says most: its own error, else the last one."""
    lines = [line.strip() for line in (error.detail or "").splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("crash: ")), lines[-1] if lines else error.message)


def _died(status: int) -> SessionDied:
    # 128 + signal is the shell's way to say that a process was killed.
    if status == 137:
        return SessionDied("crash was killed, most likely for want of memory", hint="raise the limit, or ask for less")
    if status > 128:
        return SessionDied(f"crash died of signal {status - 128}")
    return SessionDied(
        f"crash ended with status {status}", hint="that is what quit does; the next command starts it anew"
    )

"""The FIFOs of a case: lines to a debugger, its bytes back, words to the session script beside it.

What comes back is told apart by two things that nothing in a dump can imitate: markers, which are random and which
the debugger is asked to echo, and the case's token, with which the script's own lines begin.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import time
from dataclasses import dataclass
from typing import Final

from sandbox.case.places import fifo
from sandbox.errors import SessionDied, VmboxError
from sandbox.model import Case

_CHUNK: Final = 1 << 16

_MARKER: Final = re.compile(rb"(?m)^vmbox-[0-9a-f]{32}\n")

_EXIT: Final = rb" exit (\d{1,3}) ([0-9a-f]{1,32})\n"
"""A crash that took its case over knows the token, and may write anything behind it."""
_SENT: Final = rb" sent ([0-9a-f]{1,32})\n"
"""The same when it has sent the signal of a word "int"."""

_PATIENCE: Final = 5.0
"""Seconds for which a FIFO may stay full. What is sent fits into an empty one."""

_LOOK: Final = 0.5
"""Seconds for which the script may hold the lock of clients when it looks for them."""

_EXIT_LINE: Final = 64
"""Bytes that an exit line has at most, after its token."""


@dataclass(frozen=True, slots=True)
class DebuggerExit:
    """The script's line about a debugger that has ended, at `begin` to `end` of what was received."""

    begin: int
    end: int
    status: int
    ident: bytes
    """The id of the start that it came from."""


class FifoChannel:
    """Both directions of a case's FIFOs."""

    buffer: bytearray
    """What was received and not yet taken, without the script's lines about signals."""
    sent: bool
    """Whether the script says that it has sent the last `signal`."""

    def __init__(self, case: Case, slot: int) -> None:
        """Opens the FIFOs of a slot. Raises OSError: ENXIO when no process holds the other ends, ENOENT when the case
        has been closed.
        """
        self._begin(case)
        self._directory = case.shared
        self._descriptors: list[int] = []
        try:
            self._in = self._open(fifo("in", slot), os.O_WRONLY | os.O_NONBLOCK)
            self._out = self._open(fifo("out", slot), os.O_RDONLY | os.O_NONBLOCK)
            self._ctl = self._open("ctl", os.O_WRONLY | os.O_NONBLOCK)
            self._show_that_we_are_here(self._open("lock", os.O_RDONLY))
        except BaseException:
            self.close()
            raise

    def _begin(self, case: Case) -> None:
        self.buffer = bytearray()
        self.sent = False
        self._signal = b""
        self._token = case.token.encode()
        self._sent = re.compile(re.escape(self._token) + _SENT)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    @staticmethod
    def _show_that_we_are_here(lock: int) -> None:
        """Holds the lock by which the session script sees a client, who has no idle limit.

        The script holds it for a moment to look. A case that was taken over may hold it for ever, and must not hold us.
        """
        deadline = time.monotonic() + _LOOK
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.01)
            else:
                return

    def control(self, *words: str) -> None:
        """Sends words to the session script. Raises TimeoutError when it does not take them."""
        self._put(self._ctl, " ".join(words).encode() + b"\n")

    def signal(self, slot: int, name: str) -> None:
        """Has the script send a signal to the debugger of a slot; `sent` follows. Raises TimeoutError as `control`.

        The signal "0" is none: what earlier clients had asked the script for is done when it is `sent`.
        """
        ident = os.urandom(8).hex()
        self.sent, self._signal = False, ident.encode()
        self.control("int", str(slot), name, ident)

    def send(self, lines: bytes) -> None:
        """Sends input to the debugger, which reads it at its prompt. Raises TimeoutError when the FIFO stays full."""
        self._put(self._in, lines + b"\n")

    @staticmethod
    def _put(descriptor: int, data: bytes) -> None:
        # The case holds the other end, and may keep it full: no write waits for it without an end.
        deadline = time.monotonic() + _PATIENCE
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(0.01)
            except BrokenPipeError:
                raise SessionDied("the case container has ended") from None

    def ready(self, seconds: float | None) -> bool:
        return bool(select.select([self._out], [], [], seconds)[0])

    def _read(self) -> bytes:
        return os.read(self._out, _CHUNK)

    def _ended(self) -> VmboxError:
        """Why nothing more will come: the container is gone, and its script with it, without a word."""
        return SessionDied("the case container has ended", detail=last_words(bytes(self.buffer)))

    def receive(self, seconds: float | None) -> bool:
        """Takes what has come into `buffer`, waiting up to `seconds`. Returns whether anything did."""
        if not self.ready(seconds):
            return False
        try:
            data = self._read()
        except BlockingIOError:
            return False
        if not data:
            raise self._ended()
        self.buffer += data
        # A client that died leaves such lines to others.
        while (found := self._sent.search(self.buffer)) is not None:
            self.sent = self.sent or found[1] == self._signal
            del self.buffer[self._line_begin(found.start()) : found.end()]
        return True

    def take(self, end: int) -> bytes:
        """Removes and returns the first `end` bytes of the buffer."""
        taken = bytes(self.buffer[:end])
        del self.buffer[:end]
        return taken

    def find_exit(self) -> DebuggerExit | None:
        """The first exit line in the buffer, if one has come whole."""
        found = re.search(re.escape(self._token) + _EXIT, self.buffer)
        if found is None:
            return None
        begin = self._line_begin(found.start())
        return DebuggerExit(begin=begin, end=found.end(), status=int(found[1]), ident=found[2])

    def _line_begin(self, token: int) -> int:
        """Where a line of the script begins whose token is at `token`: it ends the line before it."""
        return token - 1 if token > 0 and self.buffer[token - 1] == ord("\n") else token

    def longest_frame(self, marker: bytes) -> int:
        """Bytes at the end of the buffer that may be the beginning of a marker's line or of one of the script's."""
        return max(len(marker) + 1, len(self._token) + _EXIT_LINE)

    def _open(self, name: str, flags: int) -> int:
        descriptor = os.open(self._directory / name, flags | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        return descriptor


def new_marker() -> bytes:
    return b"vmbox-" + os.urandom(16).hex().encode()


def without_markers(said: bytes) -> bytes:
    """What a debugger printed, without the markers of clients that did not wait for them."""
    return _MARKER.sub(b"", said)


def last_words(said: bytes) -> str | None:
    """The end of what a debugger printed that is gone, for people."""
    lines = [line for line in said[-4096:].decode(errors="backslashreplace").splitlines() if line.strip()]
    return "\n".join(lines[-5:]) or None

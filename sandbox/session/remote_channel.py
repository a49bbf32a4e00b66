"""The FIFOs of a case whose engine is on another host, by way of a script in its container (`relay`).

One exec serves a whole session. Losing the connection loses no case: what runs there goes on, and the next session
stops a command that has no client any more.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

from sandbox.case.places import RELAY
from sandbox.engine import Exec, connect
from sandbox.errors import EngineError, EngineFailed, VmboxError
from sandbox.model import Case
from sandbox.session.channel import FifoChannel

_UP: Final = b"up\n"
_PATIENCE: Final = 60.0
"""Seconds in which the script must be up: an exec of a busy host takes some."""


class RemoteChannel(FifoChannel):
    """`Channel` over the streams of an exec."""

    def __init__(self, case: Case, slot: int) -> None:
        """Raises OSError (ENXIO) when the case has ended, and `EngineError` when its host cannot be reached."""
        self._begin(case)
        self._case = case
        self._exec: Exec | None = None
        self._engine = connect(case.endpoint)
        try:
            container = self._engine.container(case.container)
            if container is None or not container.running:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))  # noqa: TRY301 - as the FIFOs of an ended case do
            self._exec = self._engine.exec(case.container, [RELAY, str(slot)], stdin=True)
            self._await_up(time.monotonic() + _PATIENCE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._exec is not None:
            self._exec.close()
            self._exec = None
        self._engine.close()

    def control(self, *words: str) -> None:
        self._write(f"c{' '.join(words)}\n".encode())

    def send(self, lines: bytes) -> None:
        self._write(b"".join(b"i" + line + b"\n" for line in lines.split(b"\n")))

    def ready(self, seconds: float | None) -> bool:
        return self._stream.ready(seconds)

    def _read(self) -> bytes:
        return self._stream.read()

    def _ended(self) -> VmboxError:
        lost = EngineFailed(
            f"the connection to {self._case.endpoint} was lost",
            hint="run the command again: the case goes on there, and is used again",
        )
        try:
            container = self._engine.container(self._case.container)
        except EngineError:
            return lost
        return lost if container is not None and container.running else super()._ended()

    @property
    def _stream(self) -> Exec:
        if self._exec is None:
            raise self._ended()
        return self._exec

    def _write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except OSError:
            raise self._ended() from None

    def _await_up(self, deadline: float) -> None:
        # What an abandoned command left in the FIFO may have come as well, as much as it likes; the marker tells.
        while (at := self.buffer.find(_UP)) < 0:
            if time.monotonic() > deadline:
                raise EngineFailed(f"the container at {self._case.endpoint} does not answer", hint="vmbox doctor")
            del self.buffer[: 1 - len(_UP)]
            self.receive(1.0)
        del self.buffer[: at + len(_UP)]

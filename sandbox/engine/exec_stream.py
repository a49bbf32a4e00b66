"""The stream of an exec or of an attached container: the same on both engines after the connection is upgraded."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

from sandbox.engine.protocol import ContainerSpec
from sandbox.errors import EngineFailed
from sandbox.log import Log

_log = Log("engine")
_FRAME: Final = struct.Struct(">BxxxL")
_STDERR: Final = 2
_CHUNK: Final = 1 << 16
_GONE: Final = (ConnectionResetError, TimeoutError, ssl.SSLZeroReturnError)
"""Errors that end the stream: the engine ended, the container was removed, or the host is no longer reachable.
SSLZeroReturnError also ends a TLS connection whose sending direction we closed first."""
_KEPT_ERRORS: Final = 1 << 20
"""Newest bytes of stderr that are kept. There is a limit because the dump decides what crash prints."""


class ExecStream:
    """`sandbox.engine.Exec` over an upgraded HTTP connection.

    http.client's buffered reader may hold the bytes that arrived with the 101 headers; a read from the bare socket
    misses them (docker-py 7.2.0, issue 3332, open). They are taken out of `reader` once, at the beginning. `answer` is
    closed with the stream.
    """

    def __init__(
        self,
        answer: Any,
        reader: Any,
        sock: socket.socket,
        *,
        tty: bool,
        exit_code: Callable[[], int],
        resize: Callable[[int, int], None] | None = None,
    ) -> None:
        self._answer = answer  # a reference: without it the connection is closed or reused
        self._sock = sock
        self._tty = tty
        self._exit_code = exit_code
        self._resize = resize
        self._arrived = bytearray(self._with_headers(reader))
        self._ended = False
        self._kind = 0
        self._left = 0
        """Bytes of the current frame that were not taken yet, of the stream `_kind`."""
        self._errors = bytearray()
        self.on_stderr: Callable[[bytes], None] | None = None
        """Called with each piece of stderr when it arrives."""
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            _keep_alive(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    def pending(self) -> bool:
        # One look at the socket: a process that writes to stderr without end must not hold the caller here.
        if not self._readable():
            self._receive(0)
        return self._readable()

    def ready(self, seconds: float | None) -> bool:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.pending():
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if left == 0 or not select.select([self._sock], [], [], left)[0]:
                return False
        return True

    def read(self, size: int = _CHUNK) -> bytes:
        while not self._readable():
            self._receive(None)
        if not self._tty:
            size = min(size, self._left)
        piece = bytes(self._arrived[:size])
        del self._arrived[:size]
        if not self._tty:
            self._left -= len(piece)
        return piece

    def _with_headers(self, reader: Any) -> bytes:
        # peek() fills an empty buffer from the socket, which would block.
        self._sock.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):  # part of a record, or no data
            there: bytes = reader.read1(len(reader.peek(1)))
            return there
        return b""

    def _receive(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)
        try:
            piece = self._sock.recv(_CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except _GONE:
            piece = b""
        finally:
            self._sock.settimeout(None)
        self._ended = not piece
        self._arrived += piece

    def _readable(self) -> bool:
        """Whether stdout has arrived, or the end; stderr before it is collected."""
        while not self._tty and (self._left == 0 or self._kind == _STDERR):
            if self._left == 0:
                if len(self._arrived) < _FRAME.size:
                    return self._ended
                self._kind, self._left = _FRAME.unpack_from(self._arrived)
                del self._arrived[: _FRAME.size]
                continue
            piece = bytes(self._arrived[: self._left])
            if not piece:
                return self._ended
            del self._arrived[: len(piece)]
            self._left -= len(piece)
            if self.on_stderr is not None:
                self.on_stderr(piece)
            self._errors += piece
            del self._errors[:-_KEPT_ERRORS]
        return self._ended or bool(self._arrived)

    def write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def close_stdin(self) -> None:
        with contextlib.suppress(OSError):  # the process has ended
            if isinstance(self._sock, ssl.SSLSocket):
                self._close_notify()
            else:
                self._sock.shutdown(socket.SHUT_WR)

    def _close_notify(self) -> None:
        # TLS closes one direction with a message. unwrap() sends it and waits for the peer's message; without the wait
        # the peer's data can still be read. SSLSocket.shutdown() would drop the encryption.
        self._sock.settimeout(0)
        try:
            self._sock.unwrap()  # type: ignore[attr-defined] # an SSLSocket, see above
        finally:
            self._sock.settimeout(None)

    def resize(self, *, rows: int, columns: int) -> None:
        if self._resize:
            try:
                self._resize(rows, columns)
            except EngineFailed as error:  # once the process has ended
                _log.info("%s", error)

    def exit_code(self) -> int:
        return self._exit_code()

    @property
    def errors(self) -> bytes:
        return bytes(self._errors)

    def close(self) -> None:
        # Other references keep the descriptor open; shutdown notifies the peer in spite of them.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._answer.close()
        with contextlib.suppress(OSError):
            self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _keep_alive(sock: socket.socket) -> None:
    """Detect within a minute that the host disappeared. Without keepalive it is never detected."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 3)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def run_attached(
    spec: ContainerSpec,
    *,
    attach: Callable[[], ExecStream],
    start: Callable[[], None],
    remove: Callable[[], None],
    on_stderr: Callable[[bytes], None] | None = None,
) -> Iterator[bytes]:
    """Do the part of `Engine.run` that follows the creation of the container.

    Attach before the start, so that no output is missed. The log is no substitute: both engines store it as text, which
    damages binary output.
    """
    try:
        with attach() as stream:
            stream.on_stderr = on_stderr
            start()
            while piece := stream.read():
                yield piece
            status = stream.exit_code()
            errors = stream.errors.decode(errors="replace").strip()
        if status:
            lines = errors.splitlines()
            said = f": {lines[-1]}" if lines else ""
            raise EngineFailed(
                f"{spec.argv[0]} in {spec.image} ended with exit status {status}{said}",
                hint="",
                detail="\n".join(lines[-20:]) or None,
            )
    finally:
        remove()


def demultiplexed(data: bytes) -> bytes:
    """The payload of `data`, which is frames of stdout and stderr, in order of arrival."""
    payload = bytearray()
    at = 0
    while at + _FRAME.size <= len(data):
        _, length = _FRAME.unpack_from(data, at)
        payload += data[at + _FRAME.size : at + _FRAME.size + length]
        at += _FRAME.size + length
    return bytes(payload)

"""The stream of an exec: a process that took its container over may write what it likes to either output."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sandbox.engine.exec_stream import ExecStream


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def stream(sock: socket.socket, *, tty: bool = False) -> ExecStream:
    reader = sock.makefile("rb")
    return ExecStream(reader, reader, sock, tty=tty, exit_code=lambda: 0)


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(data)) + data


def test_output_in_pieces_of_any_size(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    sent = frame(1, b"one") + frame(2, b"no") + frame(1, b"") + frame(1, b"two") + frame(2, b"pe")
    theirs.sendall(sent[:5])
    made = stream(ours)
    assert not made.pending()
    for at in range(5, len(sent)):
        theirs.sendall(sent[at : at + 1])
        made.pending()
    theirs.shutdown(socket.SHUT_WR)
    assert b"".join(iter(made.read, b"")) == b"onetwo"
    assert made.errors == b"nope"
    assert made.read() == b""


def test_a_terminal_has_no_frames(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(frame(2, b"x"))
    made = stream(ours, tty=True)
    assert made.read(4) == b"\2\0\0\0"
    assert made.ready(1)
    assert made.read() == b"\0\0\0\1x"
    assert not made.ready(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a word", "a part of a frame", "no end"])
def test_errors_do_not_hold_who_waits_for_output(ends: tuple[socket.socket, socket.socket], kind: str) -> None:
    ours, theirs = ends
    ended = threading.Event()

    def write() -> None:
        with suppress(OSError):
            while not ended.is_set():
                theirs.sendall(frame(2, b"x" * 60_000))

    if kind == "a word":
        theirs.sendall(frame(2, b"x"))
    elif kind == "a part of a frame":
        theirs.sendall(frame(1, b"x")[:4])
    writer = threading.Thread(target=write, daemon=True)
    if kind == "no end":
        writer.start()
    made = stream(ours)
    began = time.monotonic()
    assert not made.ready(0.3)
    assert 0.2 < time.monotonic() - began < 5
    assert len(made.errors) <= 1 << 20
    ended.set()
    made.close()


def test_the_end_is_ready(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    made = stream(ours)
    theirs.sendall(frame(1, b"x")[:3])
    theirs.close()
    assert made.ready(1)
    assert made.read() == b""

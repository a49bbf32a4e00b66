"""Servers with dumps, and cases, that answer what none of them answers."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.case import source_lines
from sandbox.case.source_lines import DebugFile
from sandbox.errors import DumpUnreadable, SessionFailed, UsageError
from sandbox.model import CommandStatus
from sandbox.progress import QUIET
from sandbox.remote import described, s3, split
from sandbox.remote.file import NotInParts
from sandbox.remote.naming import named
from sandbox.remote.s3 import S3Dump
from sandbox.remote.sftp import SftpDump
from sandbox.report import source_at
from sandbox.session.script import BeforeMark


@pytest.mark.parametrize("total", ["9" * 5000, "\u0665", "\u00b2", "*", ""])
def test_a_store_that_says_no_size(monkeypatch: pytest.MonkeyPatch, total: str) -> None:
    pytest.importorskip("botocore")
    answer = {"ContentRange": f"bytes 0-0/{total}", "ETag": '"1"'}
    monkeypatch.setattr(s3, "_client", lambda _: SimpleNamespace(get_object=lambda **_: answer))
    with pytest.raises(NotInParts):
        _ = S3Dump("s3://bucket/vmcore", None, None, QUIET).size


@pytest.mark.parametrize("first", [1 << 20, 4096])
def test_a_store_that_does_not_end_its_answer(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    pytest.importorskip("botocore")
    body = SimpleNamespace(iter_chunks=lambda _: itertools.chain([bytes(first)], itertools.repeat(bytes(1 << 20))))
    answer = {"ContentRange": "bytes 0-4095/1000000", "ETag": '"1"', "Body": body}
    monkeypatch.setattr(s3, "_client", lambda _: SimpleNamespace(get_object=lambda **_: answer))
    with pytest.raises(NotInParts, match="more than was asked for"):
        S3Dump("s3://bucket/vmcore", None, None, QUIET).read_at(0, 4096)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Iterable[bytes]], S3Dump]]:
    """A store that answers once, with these pieces, until its client leaves."""
    pytest.importorskip("botocore")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "x")

        def answer(pieces: Iterable[bytes]) -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.recv(1 << 16)
                for piece in pieces:
                    connection.sendall(piece)

        def dump(pieces: Iterable[bytes]) -> S3Dump:
            threading.Thread(target=answer, args=(pieces,), daemon=True).start()
            return S3Dump("s3://bucket/vmcore", None, None, QUIET)

        yield dump


Store = Callable[[Iterable[bytes]], S3Dump]


@pytest.mark.slow
def test_a_store_whose_error_has_no_end(store: Store) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        yield b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        while sent < 64 << 20:
            sent += 1 << 16
            yield b"10000\r\n" + bytes(1 << 16) + b"\r\n"

    with pytest.raises(DumpUnreadable, match="the store says 400"):
        _ = store(pieces()).size
    assert sent < 16 << 20  # what sockets hold


def _error(code: bytes, before: bytes = b"") -> list[bytes]:
    body = b'<?xml version="1.0"?>' + before + b"<Error><Code>" + code + b"</Code><Message>no</Message></Error>"
    return [b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\n" % len(body), body]


@pytest.mark.slow
def test_what_a_store_says_is_one_short_line(store: Store) -> None:
    with pytest.raises(DumpUnreadable) as refused:
        _ = store(_error(b"AccessDenied\nvmbox: all is well " + b"x" * 9000)).size
    assert "the store says AccessDenied vmbox: all" in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.slow
def test_entities_in_a_store_s_answer_are_not_read(store: Store) -> None:
    entities = b'<!DOCTYPE Error [<!ENTITY a "AccessDenied">]>'
    with pytest.raises(DumpUnreadable, match="the store says 403"):
        _ = store(_error(b"&a;", entities)).size


def test_a_store_whose_headers_are_no_numbers(store: Store) -> None:
    head = b"HTTP/1.1 206 Part\r\nContent-Range: bytes 0-0/9\r\nx-amz-missing-meta: two\r\nContent-Length: 1\r\n\r\nx"
    with pytest.raises(DumpUnreadable, match="is none of S3"):
        _ = store([head]).size


@pytest.mark.slow
def test_a_host_whose_packets_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    packet = pytest.importorskip("asyncssh.packet")
    dump = _sftp(b"x", 10, 1)

    async def read(_size: int, _offset: int) -> bytes:
        raise packet.PacketDecodeError("Unexpected data\nat end of packet")

    monkeypatch.setattr(dump, "_file", SimpleNamespace(read=read, stat=dump._file.stat))
    with pytest.raises(DumpUnreadable, match=r"none of SFTP \(Unexpected data at end of packet\)"):
        dump.read_at(0, 1)
    loop, thread = dump._loop, dump._thread
    dump.close()
    assert loop is not None
    assert loop.is_closed()
    assert thread is not None
    assert not thread.is_alive()
    dump.close()


def _sftp(data: bytes, size: int | None, mtime: int | None) -> SftpDump:
    async def read(_size: int, _offset: int) -> bytes:
        return data

    async def stat() -> Any:
        return SimpleNamespace(size=size, mtime=mtime, mtime_ns=None)

    dump = SftpDump("sftp://host/vmcore", None, None, QUIET)
    dump._file = SimpleNamespace(read=read, stat=stat)
    return dump


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a;id", "$(id)", "a b", ""])
def test_a_host_that_is_none(host: str) -> None:
    """An error would say `ssh HOST true`, to be pasted."""
    with pytest.raises(UsageError, match="names no host"):
        SftpDump(f"sftp://{host}/vmcore", None, None, QUIET)
    for good in ("me@host.example:22", "[fe80::1%25eth0]", "büro", "10.0.0.1"):
        SftpDump(f"sftp://{good}/vmcore", None, None, QUIET)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "mtime"), [(None, 1), (10, None), ((1 << 64) - 1, 1)])
def test_a_host_that_does_not_say_what_it_has(size: int | None, mtime: int | None) -> None:
    with pytest.raises(DumpUnreadable, match="does not say"):
        asyncio.run(_sftp(b"x", size, mtime)._read(0, 1))


def test_a_host_that_sends_another_number_of_bytes() -> None:
    assert asyncio.run(_sftp(b"xyz", 10, 1)._read(7, 5)) == b"xyz"
    for data in (b"x" * 11, b"xy", b""):
        with pytest.raises(Exception, match=r"^$"):
            asyncio.run(_sftp(data, 10, 1)._read(7, 5))


@pytest.mark.parametrize("end", [b"[" * 200_000, b"9" * 5000, b'{"failed": NaN}', b"\xff", b""])
def test_a_script_that_does_not_say_how_it_ended(end: bytes) -> None:
    heard: list[bytes] = []
    script = BeforeMark(b"mark ", heard.append)
    script(b"text\nmark " + end)
    assert script.ended() == (CommandStatus.ERROR, b"the script did not say how it ended")
    assert heard == [b"text\n"]


@pytest.mark.parametrize("line", ["1e400", "-1e400", "null", '"x"', "[]", "9" * 5000])
def test_source_lines_that_have_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    said = f'{{"files": [{{"lines": [[["function", "file.c", {line}, 1]]]}}], "code": []}}'
    info = SimpleNamespace(memory=1 << 30, cpus=1, limits=True)
    engine: Any = SimpleNamespace(info=lambda: info, run=lambda _: [said.encode()])
    monkeypatch.setattr(source_lines.images, "ensure", lambda *_: "image")
    asked = [DebugFile(path="vmlinux", sections=None, places=[("", 1)])]
    with pytest.raises(SessionFailed, match="not understood"):
        source_lines.ask(asked, [], arch="x86_64", directory=tmp_path, engine=engine)


def test_no_text_of_an_answer_makes_a_line_of_its_own() -> None:
    evil = "x\n      sym ffff\x1b[31m"
    place = source_at.Place(
        address=1, symbol=evil, offset=0, size=1, module=evil, why=evil, call=False,
        lines=(source_at.PlaceLine(function=evil, file=evil, line=1, column=1),),
    )  # fmt: skip
    said = list(source_at.words((place, replace(place, lines=())), Path("/nowhere")))
    assert len(said) == 7
    assert all(line.isprintable() for line in said)


def test_the_neighbours_of_a_number_of_very_many_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def local(dump: Path, _: object) -> Path:
        asked.append(str(described.url_of(dump)))
        raise DumpUnreadable("none")

    monkeypatch.setattr(split.described, "local", local)
    monkeypatch.setattr(split.described, "read", lambda _: SimpleNamespace(url=f"http://h/vmcore{'9' * 5000}.x?\u0663"))
    assert split.RemoteNeighbours(Path("x")).paths() == []
    assert [len(one) > 5000 for one in asked] == [True, True]
    assert asked[1].endswith("99998.x?\u0663")


@pytest.mark.parametrize(
    "url",
    [
        *("sftp://h:99999/x", "sftp://h:x/x", "https://[::1/x", "s3://[x/y", "http://h..example/x", "sftp://::::/x"),
        *(f"http://{'a' * 300}/x", "http://\ud800/x", "sftp://:22/x"),
    ],
)
def test_what_is_no_url_is_said(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no URL|names no host") as refused:
        named(url)
    assert "\n" not in refused.value.message

"""Servers with dumps, and cases, that answer what none of them answers."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.case import remote_s3, source_lines
from sandbox.case.remote_file import NotInParts
from sandbox.case.remote_s3 import S3Dump
from sandbox.case.remote_sftp import SftpDump
from sandbox.case.source_lines import DebugFile
from sandbox.errors import DumpUnreadable, SessionFailed
from sandbox.model import CommandStatus
from sandbox.progress import QUIET
from sandbox.session.script import BeforeMark


@pytest.mark.parametrize("total", ["9" * 5000, "\u0665", "\u00b2", "*", ""])
def test_a_store_that_says_no_size(monkeypatch: pytest.MonkeyPatch, total: str) -> None:
    pytest.importorskip("botocore")
    answer = {"ContentRange": f"bytes 0-0/{total}", "ETag": '"1"'}
    monkeypatch.setattr(remote_s3, "_client", lambda _: SimpleNamespace(get_object=lambda **_: answer))
    with pytest.raises(NotInParts):
        _ = S3Dump("s3://bucket/vmcore", None, None, QUIET).size


@pytest.mark.parametrize("first", [1 << 20, 4096])
def test_a_store_that_does_not_end_its_answer(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    pytest.importorskip("botocore")
    body = SimpleNamespace(iter_chunks=lambda _: itertools.chain([bytes(first)], itertools.repeat(bytes(1 << 20))))
    answer = {"ContentRange": "bytes 0-4095/1000000", "ETag": '"1"', "Body": body}
    monkeypatch.setattr(remote_s3, "_client", lambda _: SimpleNamespace(get_object=lambda **_: answer))
    with pytest.raises(NotInParts, match="more than was asked for"):
        S3Dump("s3://bucket/vmcore", None, None, QUIET).read_at(0, 4096)


def _sftp(data: bytes, size: int | None, mtime: int | None) -> SftpDump:
    async def read(_size: int, _offset: int) -> bytes:
        return data

    async def stat() -> Any:
        return SimpleNamespace(size=size, mtime=mtime, mtime_ns=None)

    dump = SftpDump("sftp://host/vmcore", None, None, QUIET)
    dump._file = SimpleNamespace(read=read, stat=stat)
    return dump


@pytest.mark.parametrize(("size", "mtime"), [(None, 1), (10, None)])
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

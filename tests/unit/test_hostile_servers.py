"""Servers with dumps that answer what no server answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.case import remote_s3
from sandbox.case.remote_file import NotInParts
from sandbox.case.remote_s3 import S3Dump
from sandbox.case.remote_sftp import SftpDump
from sandbox.errors import DumpUnreadable
from sandbox.progress import QUIET


@pytest.mark.parametrize("total", ["9" * 5000, "\u0665", "\u00b2", "*", ""])
def test_a_store_that_says_no_size(monkeypatch: pytest.MonkeyPatch, total: str) -> None:
    pytest.importorskip("botocore")
    answer = {"ContentRange": f"bytes 0-0/{total}", "ETag": '"1"'}
    monkeypatch.setattr(remote_s3, "_client", lambda _: SimpleNamespace(get_object=lambda **_: answer))
    with pytest.raises(NotInParts):
        _ = S3Dump("s3://bucket/vmcore", None, None, QUIET).size


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

"""Coverage-guided fuzzing of what reads a dump on a server, and a gzip file by an index, with atheris, by hand.

    pip install --group fuzz --group test
    python tests/fuzz/servers.py http|s3|sftp|gzip [CORPUS] [-max_total_time=600 and options of libFuzzer]

A real server on loopback gives the input as its answers, to the clients and libraries that a dump is read with. The web
server and the store send what an input says, the answers to one connection after the other; the SSH server answers the
requests of the SFTP protocol by it, in real packets. `harness.py` says what a finding is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import os
import random
import socket
import struct
import sys
import tempfile
import threading
import zlib
from functools import cache
from pathlib import Path

import atheris
import harness

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

_directory = tempfile.TemporaryDirectory(prefix="vmbox-fuzz-", dir="/dev/shm")
HOME = Path(_directory.name)
os.environ.update(HOME=str(HOME), AWS_EC2_METADATA_DISABLED="true", AWS_REGION="us-east-1", NETRC=str(HOME / "none"))

with atheris.instrument_imports(include=["sandbox"]):
    from sandbox.debuginfo import download
    from sandbox.errors import DumpError, VmboxError
    from sandbox.formats import gzip_index
    from sandbox.formats.streams import BytesSource, CorruptData
    from sandbox.progress import QUIET
    from sandbox.remote import http, s3, sftp
    from sandbox.remote.file import RemoteFile

SPLIT = b"\n--\n"
"""Between one answer and the next."""
DUMP = bytes(range(256)) * 40

download.FIRST_WAIT = 0.0
download._LONGEST_WAIT = 0.0
http._SECONDS = s3._SECONDS = 1
sftp._SECONDS = 2.0


class Answering:
    """A listener on loopback that sends what it is told, whatever it is asked."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.settimeout(1)
                while b"\r\n\r\n" not in connection.recv(1 << 16):
                    pass
                connection.sendall(self.answers.pop(0) if self.answers else b"")


@cache
def _listener() -> Answering:
    return Answering()


def _read(file: RemoteFile) -> None:
    try:
        size = file.size
        assert 0 <= size < 1 << 64
        for offset in (0, 5000):
            wanted = max(0, min(4096, size - offset))
            assert len(file.read_at(offset, wanted)) == wanted
        assert file.fetched >= min(size, 4096)
    except VmboxError as error:
        harness.check_line(error.message)
    finally:
        file.close()


def read_http(content: bytes) -> None:
    listener = _listener()
    listener.answers = content.split(SPLIT)
    with contextlib.suppress(DumpError):
        _read(http.HttpDump(f"http://127.0.0.1:{listener.port}/vmcore", None, None, QUIET))


@cache
def _store() -> Answering:
    listener = _listener()
    os.environ.update(AWS_ENDPOINT_URL=f"http://127.0.0.1:{listener.port}")
    client = s3._client("s3://dumps/vmcore")
    client.close = lambda: None
    s3._client = lambda _: client
    return listener


def read_s3(content: bytes) -> None:
    _store().answers = content.split(SPLIT)
    _read(s3.S3Dump("s3://dumps/vmcore", None, None, QUIET))


class SftpAnswers:
    """The sftp subsystem of a server: each request is answered by the next piece, an SFTP packet without its head.

    The first byte is the type; 255: all of the piece is sent as it is.
    """

    answers: list[bytes]

    async def serve(self, stdin: object, stdout: object) -> None:
        with contextlib.suppress(Exception):
            while True:
                (size,) = struct.unpack(">I", await stdin.readexactly(4))
                request = await stdin.readexactly(size)
                piece = self.answers.pop(0) if self.answers else b""
                if not piece:
                    break
                number = b"" if request[0] == 1 else request[1:5]  # SSH_FXP_INIT has none
                body = piece[:1] + number + piece[1:]
                stdout.write(piece[1:] if piece[0] == 255 else struct.pack(">I", len(body)) + body)
        stdout.channel.close()


@cache
def _host() -> tuple[SftpAnswers, int]:
    import asyncssh

    answers = SftpAnswers()
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    tasks: set[object] = set()
    key = asyncssh.generate_private_key("ssh-ed25519")
    (HOME / ".ssh").mkdir(mode=0o700)

    class Host(asyncssh.SSHServer):
        def begin_auth(self, _: str) -> bool:
            return False

        def session_requested(self) -> object:
            return Session(None)

    class Session(asyncssh.stream.SSHServerStreamSession):
        """Of the subsystem, which asyncssh would serve itself."""

        def subsystem_requested(self, _: str) -> bool:
            return True

        def session_started(self) -> None:
            read, write = asyncssh.SSHReader(self, self._chan), asyncssh.SSHWriter(self, self._chan)
            tasks.add(asyncio.ensure_future(answers.serve(read, write)))

    async def listen() -> object:
        return await asyncssh.listen("127.0.0.1", 0, server_factory=Host, server_host_keys=[key], encoding=None)

    port = asyncio.run_coroutine_threadsafe(listen(), loop).result(10).get_port()
    (HOME / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    return answers, port


def read_sftp(content: bytes) -> None:
    answers, port = _host()
    answers.answers = content.split(SPLIT)
    _read(sftp.SftpDump(f"sftp://me@127.0.0.1:{port}/vmcore", None, None, QUIET))


def read_gzip(content: bytes) -> None:
    kept = io.BytesIO()
    with contextlib.suppress(CorruptData):
        source = gzip_index.GzipSource(BytesSource(content), kept)
        index = io.BytesIO()
        source.save(index)
        again = gzip_index.GzipSource(BytesSource(content), io.BytesIO(), index=io.BytesIO(index.getvalue()))
        assert again.size == source.size
        for offset in (0, source.size // 2, source.size - 100):
            with contextlib.suppress(CorruptData):
                data = source.read_at(offset, 70_000)
                assert again.read_at(offset, 70_000) == data
                assert len(data) == (max(0, min(70_000, source.size - offset)) if offset >= 0 else 0)
                unpacked = zlib.decompressobj(31).decompress(content, max(1, offset + len(data)))
                assert offset < 0 or unpacked[offset : offset + len(data)] == data


# Seeds.


def _http(*more: bytes, status: bytes = b"206 Partial Content", body: bytes = b"", mark: bytes = b'"a"') -> bytes:
    head = [b"HTTP/1.1 " + status, b"ETag: " + mark, *more, b"Content-Length: %d" % len(body)]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _part(first: int, size: int, *more: bytes) -> bytes:
    of = b"Content-Range: bytes %d-%d/%d" % (first, first + size - 1, len(DUMP))
    return _http(of, *more, body=DUMP[first : first + size])


def _web() -> list[bytes]:
    whole = [_part(0, 1), _part(0, 4096), _part(5000, 4096)]
    moved = _http(b"Location: /other", status=b"302 Found")
    chunked = (
        b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-0/9000\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\0\r\n0\r\n\r\n"
    )
    return [
        SPLIT.join(whole),
        SPLIT.join([moved, *whole]),
        SPLIT.join([chunked, *whole[1:]]),
        SPLIT.join([_http(status=b"503 Busy"), _part(0, 1, b"Set-Cookie: a=b"), _part(0, 4096)[:-5], *whole[1:]]),
        SPLIT.join([_http(status=b"401 No", body=b"no"), _http(b"Content-Encoding: gzip", body=b"\x1f\x8b")]),
    ]


def _bucket() -> list[bytes]:
    error = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>x</Message></Error>'
    kinds = [
        _http(b"Content-Type: application/xml", status=b"404 Not Found", body=error % b"NoSuchKey"),
        _http(b"Content-Type: application/xml", status=b"301 Moved", body=error % b"PermanentRedirect"),
        _http(b"x-amz-version-id: v1", status=b"412 Failed", body=error % b"PreconditionFailed"),
    ]
    versions = [_part(0, 1, b"x-amz-version-id: 1", b"Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT"), _part(0, 4096)]
    return [*_web()[:4], *kinds, SPLIT.join(versions)]


def _text(word: bytes) -> bytes:
    return struct.pack(">I", len(word)) + word


def _sftp() -> list[bytes]:
    version = b"\x02" + struct.pack(">I", 3)
    handle = b"\x66" + _text(b"1")
    attributes = b"\x69" + struct.pack(">IQIII", 0b1101, len(DUMP), 0o100644, 1, 2)
    status = b"\x65" + struct.pack(">I", 2) + _text(b"no \x1b[31m such") + _text(b"en")
    data = [b"\x67" + _text(DUMP[at : at + size]) for at, size in ((0, 1), (0, 4096), (5000, 4096))]
    return [
        SPLIT.join([version, handle, attributes, *(one for part in data for one in (part, attributes))]),
        SPLIT.join([version + _text(b"posix-rename@openssh.com") + _text(b"1"), handle, attributes, *data]),
        SPLIT.join([version, status]),
        SPLIT.join([version, handle, b"\x65" + struct.pack(">I", 1) + _text(b"") + _text(b""), attributes]),
        SPLIT.join([b"\xff" + struct.pack(">I", 1 << 31) + b"\x02"]),
    ]


def _gzips() -> list[bytes]:
    small = random.Random(1).randbytes(3000) + bytes(50_000)
    made = [gzip.compress(small, level) for level in (0, 1, 9)]
    return [*made, made[1] * 2, gzip.compress(bytes(5 << 20)), made[2][:-3], made[1] + bytes(100)]


TARGETS: dict[str, harness.Target] = {
    "http": (read_http, _web),
    "s3": (read_s3, _bucket),
    "sftp": (read_sftp, _sftp),
    "gzip": (read_gzip, _gzips),
}


if __name__ == "__main__":
    harness.fuzz(TARGETS)

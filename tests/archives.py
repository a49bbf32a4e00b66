"""Small genuine packages, and a server that hands them out as badly as it is told to."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import lzma
import socket
import ssl
import struct
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from listening import listening
from sandbox.formats import zstandard

RELEASE = "6.1.0-50-cloud-amd64"
VERSION = "6.1.176-1"
UTSNAME_VERSION = f"#1 SMP PREEMPT_DYNAMIC Debian {VERSION} (2026-07-02)"
BANNER = f"Linux version {RELEASE} (debian-kernel@lists.debian.org) (gcc-12) {UTSNAME_VERSION}"
BUILD_ID = "bb603a9147d3efe4744bf83c83eee397c591cc20"
PATH = f"./usr/lib/debug/boot/vmlinux-{RELEASE}"


def vmlinux(
    build_id: str | None = BUILD_ID, banner: str | None = BANNER, *, dwarf: bytes = b"dwarf", relocations: bytes = b""
) -> bytes:
    """An ELF file with what tells kernels apart, laid out as ld --emit-relocs does: relocations after all else."""
    sections: list[tuple[str, int, int, bytes]] = [("", 0, 0, b"")]
    if build_id is not None:
        note = struct.pack("<3I", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)
        sections.append((".notes", 7, 2, note))
    if banner is not None:
        sections.append((".rodata", 1, 2, b"%s version %s\0" + banner.encode() + b"\n\0"))
    sections.append((".debug_info", 1, 0, dwarf))
    sections.append((".symtab", 2, 0, bytes(24)))
    if relocations:
        sections.append((".rela.debug_info", 4, 0, relocations))
    names = b"".join(name.encode() + b"\0" for name, *_ in sections) + b".shstrtab\0"
    sections.append((".shstrtab", 3, 0, names))
    body = bytearray(64)
    table = b""
    for name, kind, flags, data in sections:
        body += bytes(-len(body) % 8)
        at = names.index(b"\0" + name.encode() + b"\0") + 1 if name else 0
        # Binutils and elfutils look closer than crash: a symbol table has names and entries of a size.
        link, info, entry = (len(sections) - 1, 1, 24) if kind == 2 else (0, 0, 0)
        align = 4 if kind == 7 else 8
        offset = len(body) if kind else 0
        table += struct.pack("<2I4Q2I2Q", at, kind, flags, 0, offset, len(data), link, info, align, entry)
        body += data
    body += bytes(-len(body) % 8)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHI3QI6H", 2, 62, 1, 0, 0, len(body), 0, 64, 56, 0, 64, len(sections), len(sections) - 1)
    body[:64] = header
    return bytes(body + table)


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        directory = tarfile.TarInfo("./usr")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def multi_block_xz(data: bytes, block: int) -> bytes:
    """What xz -T2 writes: one stream of many blocks. Python's lzma makes the blocks."""
    header = b""
    blocks: list[bytes] = []
    records: list[tuple[int, int]] = []
    for at in range(0, max(len(data), 1), block):
        piece = data[at : at + block]
        single = lzma.compress(piece, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=0)
        header, footer = single[:12], single[-12:]
        index_size = (struct.unpack("<I", footer[4:8])[0] + 1) * 4
        index = single[-12 - index_size : -12]
        unpadded, at_index = 0, 2
        for shift in range(0, 63, 7):
            unpadded |= (index[at_index] & 0x7F) << shift
            at_index += 1
            if not index[at_index - 1] & 0x80:
                break
        blocks.append(single[12 : -12 - index_size])
        records.append((unpadded, len(piece)))
    index = b"\0" + _varint(len(records)) + b"".join(_varint(a) + _varint(b) for a, b in records)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", lzma_crc(index))
    fields = struct.pack("<I", len(index) // 4 - 1) + header[6:8]
    return header + b"".join(blocks) + index + struct.pack("<I", lzma_crc(fields)) + fields + b"YZ"


def lzma_crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)


def _varint(number: int) -> bytes:
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def compress(data: bytes, kind: str, block: int = 1 << 16) -> bytes:
    match kind:
        case "xz":
            return lzma.compress(data, preset=0)
        case "blocks":
            return multi_block_xz(data, block)
        case "gz":
            return gzip.compress(data)
        case "zst":
            return zstandard.module().compress(data)
        case _:
            return data


def deb(files: dict[str, bytes], kind: str = "xz", *, block: int = 1 << 16) -> bytes:
    sums = {path.removeprefix("./"): hashlib.md5(data).hexdigest() for path, data in files.items()}
    md5sums = "".join(f"{digest}  {path}\n" for path, digest in sums.items()).encode()
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": lzma.compress(tar({"./control": b"Package: x\n", "./md5sums": md5sums}), preset=0),
        "data.tar" + {"blocks": ".xz", "": ""}.get(kind, f".{kind}"): compress(tar(files), kind, block),
    }
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Archive:
    """Files by URL path, and how they are served."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    no_such_range: bool = False
    """Whether every part is refused as one that is not in the file."""
    cut_after: list[int] = field(default_factory=list)
    """Each answer in turn is cut off after so many bytes."""
    statuses: list[int] = field(default_factory=list)
    """Each request in turn gets this status instead; 0 is served properly."""
    flip: int | None = None
    """Offset of a byte that is served wrongly."""
    wrong_total: int = 0
    """Added to every length the server speaks of."""
    delay: float = 0.0
    shift: int = 0
    """Added to the first byte that Content-Range speaks of."""
    claimed: int = 0
    """Added to Content-Length of a part."""
    login: str = ""
    """NAME:PASSWORD that every request has to have."""
    logins: list[str | None] = field(default_factory=list)
    """What each request had."""
    redirect: str = ""
    """Where every request is sent instead."""
    headers: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of each."""
    answering: int = 0
    """Requests that are being answered."""
    counted: int = 0

    @property
    def sent(self) -> int:
        """Bytes of bodies, counted when the answers that are under way have ended: a client is done before them."""
        self._await_answers()
        return self.counted

    @sent.setter
    def sent(self, value: int) -> None:
        # An answer that is still under way would be counted after that.
        self._await_answers()
        self.counted = value

    def _await_answers(self) -> None:
        deadline = time.monotonic() + 5
        while self.answering and time.monotonic() < deadline:
            time.sleep(0.001)


@contextmanager
def serve(archive: Archive, *, tls: ssl.SSLContext | None = None) -> Iterator[Archive]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Otherwise the body waits 40 ms for the acknowledgement of the header.
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            with lock:
                archive.answering += 1
            try:
                self._answer()
            finally:
                with lock:
                    archive.answering -= 1

        def do_HEAD(self) -> None:
            """As a registry answers for a manifest."""
            data = archive.files.get(self.path)
            self.send_response(404 if data is None else 200)
            if data is not None:
                self.send_header("Docker-Content-Digest", f"sha256:{sha256(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self) -> None:
            wanted = self.headers.get("Range")
            with lock:
                archive.requests.append((self.path, wanted))
                status = archive.statuses.pop(0) if archive.statuses else 0
                cut = archive.cut_after.pop(0) if archive.cut_after else None
            time.sleep(archive.delay)
            given = self.headers.get("Authorization")
            archive.logins.append(given and base64.b64decode(given.removeprefix("Basic ")).decode())
            if archive.login and archive.logins[-1] != archive.login:
                status = 401
            if archive.redirect:
                self.send_response(302)
                self.send_header("Location", archive.redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = archive.files.get(self.path.partition("?")[0])
            if status or data is None:
                self.send_response(status or 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if archive.flip is not None and archive.flip < len(data):
                data = data[: archive.flip] + bytes([data[archive.flip] ^ 1]) + data[archive.flip + 1 :]
            total = len(data) + archive.wrong_total
            start, end = 0, len(data)
            if wanted and archive.ranges:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                if first:
                    start, end = int(first), min(int(last or len(data)) + 1, len(data)) if last else len(data)
                else:
                    start = max(len(data) - int(last), 0)
                if start >= len(data) or archive.no_such_range:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(data)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start + archive.shift}-{end - 1}/{total}")
                self.send_header("Content-Length", str(end - start + archive.claimed))
            else:
                self.send_response(200)
                self.send_header("Content-Length", str(total))
            for name, value in archive.headers.items():
                self.send_header(name, value)
            self.end_headers()
            body = data[start:end]
            if cut is not None:
                body = body[:cut]
            try:
                self.wfile.write(body)
            except OSError:
                return
            with lock:
                archive.counted += len(body)
            if cut is not None or archive.wrong_total or archive.claimed:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

    with listening(Handler, tls=tls) as port:
        archive.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        yield archive

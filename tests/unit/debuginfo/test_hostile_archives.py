"""Archives that want a client's memory, disk, certificate or time, before anything they sent was checked."""

from __future__ import annotations

import gzip
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

import archives
from archives import Archive
from debuginfo_bench import Bench, Heard
from listening import listening
from sandbox.debuginfo import RemotePackage, certificates, download, package_download, repodata, strip_relocs, unstrip
from sandbox.debuginfo.gdb_index import add_gdb_index
from sandbox.debuginfo.http_ranges import HttpFile
from sandbox.debuginfo.proof import identity
from sandbox.debuginfo.store import Store
from sandbox.errors import DownloadFailed, VerificationFailed
from sandbox.formats import elf, openpgp, rpm, xz
from sandbox.formats.streams import ChunkStream, CorruptData

MIB = 1 << 20


@contextmanager
def cheap(mebibytes: int, seconds: float = 2.0) -> Iterator[None]:
    """Fails where what is inside takes more memory, of Python's, or more of the processor."""
    tracemalloc.start()
    began = time.process_time()
    try:
        yield
    finally:
        taken, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < mebibytes * MIB, f"{peak / MIB:.0f} MiB"
    # tracemalloc slows down what allocates much.
    assert taken < 3 * seconds, f"{taken:.1f} s"


# RPM headers.


def header(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    index = b"".join(struct.pack(">4I", *entry) for entry in entries)
    return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(entries), len(data)) + index + data


def package(main: bytes, signature: bytes | None = None) -> ChunkStream:
    signature = header() if signature is None else signature
    whole = b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main
    return ChunkStream(iter([whole]))


def columns(count: int, directory: bytes, *, modes: bytes = b"") -> bytes:
    """A file list with `count` files, all in one directory; `modes` are in 64 bits."""
    kinds = {1116: (4, 4), 1028: (4, 4), 1030: (5, 8) if modes else (3, 2), 1096: (4, 4), 1037: (4, 4)}
    data, entries = b"", []
    for tag, (kind, width) in kinds.items():
        entries.append((tag, kind, len(data), count))
        data += modes if tag == 1030 and modes else bytes(width * count)
    for tag in (1117, 1035):
        entries.append((tag, 8, len(data), count))
        data += b"\0" * count
    entries.append((1118, 8, len(data), 1))
    return header(*entries, data=data + directory + b"\0")


HEADERS = {
    "a number, again and again": header(*[(1028, 4, 0, 262_000)] * 4000, data=bytes(MIB)),
    "tags that are not used": header(*[(5000 + at, 4, 0, 262_000) for at in range(4000)], data=bytes(MIB)),
    "a million empty names": header((1117, 8, 0, MIB), data=bytes(MIB)),
    "one long directory of all files": columns(50_000, b"d" * 900_000),
    "a name without an end": header((1000, 6, 0, 1), data=b"n" * 4 * MIB),
    "an algorithm of no number": header((5011, 4, 0, 0), data=b""),
}


@pytest.mark.parametrize("name", HEADERS)
def test_rpm_headers_that_want_memory(name: str) -> None:
    with cheap(40):
        try:
            read = rpm.read(package(HEADERS[name]))
        except CorruptData:
            return
    assert read.files == ()


@pytest.mark.slow
def test_a_large_honest_rpm_header() -> None:
    with cheap(100):
        assert len(rpm.read(package(columns(20_000, b"/usr/lib/debug/"))).files) == 20_000


def test_a_path_that_is_no_text() -> None:
    read = rpm.read(package(columns(2, b"/\xff\xfe/")))
    assert rpm.offset_in_payload(read, read.files[1]) == 116


def test_a_mode_that_is_too_wide() -> None:
    read = rpm.read(package(columns(2, b"/d/", modes=struct.pack(">2Q", 1 << 40 | 0o100644, 1 << 63))))
    assert [file.regular for file in read.files] == [True, False]


@pytest.mark.slow
def test_signatures_without_end() -> None:
    """Packets of no bytes, and a thousand signatures each of which would hash all of the header."""
    with cheap(10):
        assert openpgp.rsa_signer(b"", b"\xca\x00" * MIB, ()) is None
    with cheap(10), pytest.raises(openpgp.Malformed):
        openpgp.rsa_keys(b"\xca\x00" * MIB)
    one = b"\x04\x00\x01\x08" + bytes(4) + bytes(2) + b"\x00\x08\x01"
    many = (b"\xc2" + bytes([len(one)]) + one) * 4000
    key = openpgp.RsaKey(name="x", fingerprint="x", modulus=1 << 2048, exponent=3)
    with cheap(100):
        assert openpgp.rsa_signer(bytes(8 * MIB), many, [key]) is None
    signature = header((267, 7, 0, 4 * MIB), data=bytes(4 * MIB))
    assert rpm.read(package(header(), signature)).signatures == ()


# Lists of packages.


def repository(archive: Archive, xml: bytes, *, repomd: str = "", location: str = "repodata/primary.xml.gz") -> str:
    archive.files["/repo/repodata/repomd.xml"] = (
        f'<repomd><data type="primary"><location href="{location}"/>{repomd}</data></repomd>'.encode()
    )
    archive.files["/repo/repodata/primary.xml.gz"] = gzip.compress(xml, 1)
    return f"{archive.url}/repo/"


def entry(name: str = "wanted", href: str = "a.rpm", size: str = "5", checksum: str = "ab" * 32, base: str = "") -> str:
    return (
        f"<package><name>{name}</name><arch>x86_64</arch><version ver='1' rel='1'/>"
        f"<checksum type='sha256'>{checksum}</checksum><size package='{size}'/>"
        f"<location href='{href}' {base}/></package>"
    )


def listing(*entries: str) -> bytes:
    return f"<metadata>{''.join(entries)}</metadata>".encode()


def find(base: str, heard: Heard | None = None) -> list[tuple[str, int | None, str | None]]:
    found = repodata.find(base, ["wanted-1-1"], "x86_64", heard or Heard())
    return [(one.url, one.size, one.sha256) for one in found]


@pytest.mark.parametrize("size", ["²", "9" * 5000, "-1", ""], ids=["square", "long", "negative", "none"])
def test_an_invalid_size_counts_as_unknown(bench: Bench, size: str) -> None:
    base = repository(bench.archive, listing(entry(size=size), entry(href="b.rpm")))
    assert find(base) == [(f"{base}a.rpm", None, "ab" * 32), (f"{base}b.rpm", 5, "ab" * 32)]


@pytest.mark.parametrize("checksum", ["a" * 400, "../../x", "ab"], ids=["long", "path", "short"])
def test_an_invalid_checksum_counts_as_unknown(bench: Bench, checksum: str) -> None:
    base = repository(bench.archive, listing(entry(checksum=checksum)))
    assert find(base) == [(f"{base}a.rpm", 5, None)]
    part = Store(bench.cache).part(checksum)
    assert part.parent == bench.cache / "downloads"
    part.touch()


@pytest.mark.parametrize(
    "named",
    [
        {"href": "http://evil.example/a.rpm"},
        {"href": "//evil.example/a.rpm"},
        {"href": "http://127.0.0.1:1/a.rpm"},
        {"href": "a.rpm", "base": "xml:base='http://evil.example/'"},
    ],
)
def test_a_list_that_names_another_host(bench: Bench, named: dict[str, str]) -> None:
    with pytest.raises(VerificationFailed, match="names another host"):
        find(repository(bench.archive, listing(entry(**named))))


def test_an_index_that_names_another_host(bench: Bench) -> None:
    with pytest.raises(VerificationFailed, match="names another host"):
        find(repository(bench.archive, b"", location="http://evil.example/primary.xml.gz"))


def test_mirrors_of_a_list(bench: Bench) -> None:
    """Of a list that came over TLS only those with TLS are asked."""
    bench.archive.files["/x.list"] = f"ftp://a/ {bench.archive.url}/gone\n".encode() + b"file:///etc/\n" * 100
    with pytest.raises(DownloadFailed, match="/gone/"):
        find(f"{bench.archive.url}/x.list")


LISTS = {
    "open elements": lambda: b"<a>" * 4_000_000,
    "names": lambda: b"".join(b"<n%d/>" % at for at in range(300_000)),
    "attributes": lambda: b"<metadata>" + b"".join(b"<n a%d=''/>" % at for at in range(300_000)),
    "a tag without an end": lambda: b"<a b='" + b"x" * 20 * MIB,
    "a comment without an end": lambda: b"<a><!-- " + b"x" * 20 * MIB,
    "a name without an end": lambda: b"<metadata><package><name>" + b"x" * 20 * MIB,
    "one package again and again": lambda: listing(*[entry()] * 20_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTS)
def test_lists_that_want_memory(bench: Bench, name: str) -> None:
    content = LISTS[name]()
    base = repository(bench.archive, b"<metadata>" + content if name == "names" else content)
    before = len(bench.archive.files["/repo/repodata/primary.xml.gz"])
    with cheap(12 + 2 * before // MIB), pytest.raises(VerificationFailed):
        find(base)


def test_a_list_is_as_long_as_its_index_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    base = repository(bench.archive, listing(entry()), repomd="<size>10</size>")
    with pytest.raises(VerificationFailed, match="bytes long, not 10"):
        find(base)
    base = repository(bench.archive, listing(entry()), repomd=f"<checksum type='sha256'>{'00' * 32}</checksum>")
    with pytest.raises(VerificationFailed, match="SHA-256"):
        find(base)
    monkeypatch.setattr(repodata, "_LARGEST_DOWNLOAD", 20)
    with pytest.raises(VerificationFailed, match="at most"):
        find(repository(bench.archive, listing(entry())))


# Downloads.


@contextmanager
def endless(location: str | None = None) -> Iterator[str]:
    """A server whose bodies have no length and no end; or that sends elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200 if location is None else 302)
            if location is not None:
                self.send_header("Location", location)
                self.send_header("Content-Length", "0")
            self.end_headers()
            try:
                while location is None:
                    self.wfile.write(bytes(MIB))
            except OSError:
                self.close_connection = True

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_body_without_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repodata, "_LARGEST_DOWNLOAD", 8 * MIB)
    with endless() as url:
        remote = RemotePackage(package="x", version=None, url=url, size=None, sha256=None)
        with pytest.raises(VerificationFailed, match="at most"):
            package_download.read_package(
                remote, bench.dump, lambda stream: stream.skip(1 << 40), title="x", reporter=Heard(), limit=8 * MIB
            )
        with pytest.raises(VerificationFailed, match="too long"):
            find(f"{url}/repo/")


@pytest.mark.parametrize("length", ["²", "9" * 5000], ids=["square", "long"])
def test_an_invalid_length_counts_as_unknown(length: str) -> None:
    import httpx

    answer = httpx.Response(200, headers=[(b"content-length", length.encode("latin-1"))])
    assert download.total_of(answer) is None
    answer = httpx.Response(206, headers=[(b"content-range", f"bytes 0-1/{length}".encode("latin-1"))])
    assert download.total_of(answer) is None


# Client certificates, and redirects.


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://cdn.redhat.com/content/x.rpm", True),
        ("https://cdn.redhat.com:443/content/x.rpm", True),
        ("https://CDN.redhat.com/content/x.rpm", True),
        ("https://cdn.redhat.com:443@evil.example/x.rpm", False),
        ("https://cdn.redhat.com:x@evil.example/x.rpm", False),
        ("https://cdn.redhat.com/@evil.example/x.rpm", True),
        ("https://cdn.redhat.com.evil.example/x.rpm", False),
        ("https://user@cdn.redhat.com/x.rpm", False),
        ("http://cdn.redhat.com/content/x.rpm", False),
        ("https://satellite.example/pulp/x.rpm", True),
        ("https://satellite.example/pulpit/x.rpm", False),
    ],
)
def test_one_archive_sees_a_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, taken: bool) -> None:
    pair = tmp_path / "pair.pem"
    pair.touch()
    prefixes = ("https://cdn.redhat.com", "https://satellite.example/pulp")
    monkeypatch.setenv("VMBOX_CLIENT_CERTIFICATES", " ".join(f"{prefix}={pair}" for prefix in prefixes))
    assert (certificates.certificate_for(url) is not None) is taken


def test_redirects(bench: Bench) -> None:
    with endless(f"{bench.archive.url}/vmlinux-dbg.deb") as url, download.get(f"{url}/x") as answer:
        assert str(answer.url) == f"{bench.archive.url}/vmlinux-dbg.deb"
        assert answer.read() == bench.package
    with endless("/again") as url, pytest.raises(DownloadFailed, match="again and again"), download.get(url):
        pass


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("http://127.0.0.1:8080/x", "this host"),
        ("http://[::1]/", "this host"),
        ("http://[::ffff:127.0.0.1]/", "this host"),
        ("http://0.0.0.0/", "this host"),
        ("http://LOCALHOST/", "this host"),
        ("http://169.254.169.254/latest/meta-data/", "its link"),
        ("http://[fe80::1%25eth0]/", "its link"),
        ("file:///etc/passwd", "no web server"),
        ("ftp://mirror.example/x", "no web server"),
        ("http://mirror..example/x", "names no host"),
        (f"http://{'a' * 300}/x", "names no host"),
    ],
)
def test_no_redirect_leads_inward(monkeypatch: pytest.MonkeyPatch, place: str, why: str) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": place})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(download, "client", lambda _: client)
    with pytest.raises(DownloadFailed, match=why), download.get("http://mirror.example/vmcore"):
        pass
    assert asked == ["http://mirror.example/vmcore"]


@pytest.mark.parametrize("host", ["mirror..example", "a" * 300])
def test_a_mirror_whose_name_is_none(host: str) -> None:
    with pytest.raises(DownloadFailed, match="names no host"), download.get(f"http://{host}/x"):
        pass
    assert download.over_tls(f"http://{host}/x", None) is None


# ELF files.


def crafted(seed: int) -> bytes:
    """A small vmlinux whose headers have impossible numbers in some places."""
    dice = random.Random(seed)
    made = bytearray(archives.vmlinux(dwarf=b"d" * 300, relocations=bytes(100)))
    (table,) = struct.unpack_from("<Q", made, 40)
    for _ in range(dice.randint(1, 4)):
        word = dice.choice((0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, len(made)))
        at = dice.choice((dice.randrange(40, 56), table + dice.randrange(len(made) - table - 8)))
        width = dice.choice((1, 2, 4, 8))
        made[at : at + width] = (word & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    if dice.random() < 0.1:
        made[4] = 1
    return bytes(made)


@pytest.mark.slow
def test_crafted_elf_files(tmp_path: Path) -> None:
    """Slimming, indexing and joining give a file or a line, and no file larger than what they were given."""
    good, bad, out, index = (tmp_path / name for name in ("good", "vmlinux", "out", "index"))
    good.write_bytes(archives.vmlinux(dwarf=b"d" * 300))

    def builder(_: Path, directory: Path) -> None:
        (directory / "vmlinux.gdb-index").write_bytes(struct.pack("<I", 8) + bytes(100))

    for seed in range(600):
        bad.write_bytes(crafted(seed))
        size = bad.stat().st_size
        try:
            identity(bad)
            whole = strip_relocs.LocalFile(bad)
            strip_relocs.copy(whole, out, strip_relocs.plan(whole))
        except (elf.NotElf, CorruptData):
            continue
        assert out.stat().st_size <= size + 4096, seed
        for kernel, debug in ((good, bad), (bad, good), (bad, bad)):
            try:
                unstrip.merge(kernel, debug, index)
            except CorruptData:
                continue
            assert index.stat().st_size < 1 << 24, seed
        add_gdb_index(tmp_path, builder, Heard())


@pytest.mark.slow
def test_sections_that_are_all_of_the_file(tmp_path: Path) -> None:
    """65,000 sections of one content: none of them is read, named or written 65,000 times."""
    body = bytearray(archives.vmlinux())
    body[4096:] = b"n" * 300_000
    names = len(body)
    body += b".rodata" + b"x" * 900_000
    table = len(body)
    note = struct.pack("<2I4Q2I2Q", 0, 7, 0, 0, 4096, 300_000, 0, 0, 4, 0)
    rodata = struct.pack("<2I4Q2I2Q", 7, 1, 2, 0, 0, names, 0, 0, 1, 0)
    strings = struct.pack("<2I4Q2I2Q", 0, 3, 0, 0, names, 900_000, 0, 0, 1, 0)
    body += strings + note * 30_000 + rodata * 30_000
    struct.pack_into("<Q", body, 40, table)
    struct.pack_into("<HH", body, 60, 60_001, 0)
    path = tmp_path / "vmlinux"
    path.write_bytes(body)
    with cheap(200, 4):
        identity(path)


# xz.


def test_blocks_that_are_longer_than_what_they_hold() -> None:
    """A block of a gigabyte that unpacks to one byte would be fetched into memory."""
    stream = bytearray(archives.multi_block_xz(b"ab" * 5000, 5000))
    real = xz.blocks(lambda at, size: bytes(stream[at : at + size]), len(stream))[1]
    padding = bytes(1 << 20)
    records = [(real[0].unpadded + len(padding), 5000), (real[1].unpadded, 5000)]
    index = b"\0\x02" + b"".join(xz._number(a) + xz._number(b) for a, b in records)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", archives.lzma_crc(index))
    fields = struct.pack("<I", len(index) // 4 - 1) + bytes(stream[6:8])
    body = bytes(stream[:12]) + bytes(stream[12 : real[1].offset]) + padding + bytes(stream[real[1].offset :])
    body = body[: real[1].offset + len(padding) + real[1].size]
    made = body + index + struct.pack("<I", archives.lzma_crc(fields)) + fields + b"YZ"
    with pytest.raises(CorruptData, match="index"):
        xz.blocks(lambda at, size: made[at : at + size], len(made))


def test_ranges_of_no_number(bench: Bench) -> None:
    bench.archive.wrong_total = int("9" * 30)
    file = HttpFile(f"{bench.archive.url}/vmlinux-dbg.deb", None, Heard(), Heard())
    with pytest.raises(Exception, match="range that was asked for"):
        file.read_at(0, 10)

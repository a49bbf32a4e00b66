from __future__ import annotations

import random

import pytest

import archives
from debuginfo_bench import Bench
from sandbox.debuginfo import http_ranges
from sandbox.errors import ConfigurationError, DebuginfoMismatch, DebuginfoNotFound, DumpUnreadable, VerificationFailed
from sandbox.formats import elf, xz
from sandbox.formats.streams import CorruptData
from sandbox.progress import QUIET
from sandbox.remote import http

BLOCK = 1 << 14


@pytest.fixture(scope="module")
def package() -> bytes:
    """vmlinux with relocations between two other files, in blocks of 16 KiB."""
    noise = random.Random(1).randbytes
    files = {
        "./usr/lib/debug/boot/System.map": noise(20_000),
        archives.PATH: archives.vmlinux(dwarf=noise(100_000), relocations=noise(200_000)),
        "./usr/lib/debug/lib/modules/x.ko": noise(600_000),
    }
    return archives.deb(files, "blocks", block=BLOCK)


@pytest.fixture(autouse=True)
def large(bench: Bench, over_tls: None, package: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "_WINDOW", 4096)
    bench.put(package)


@pytest.mark.slow
def test_reads_only_what_is_kept(bench: Bench) -> None:
    found = bench.locate()
    assert bench.archive.sent < 0.2 * len(bench.package)
    assert all(wanted for _, wanted in bench.archive.requests)
    assert "over TLS: build-id, size and block checks" in found.verification_detail
    assert found.verification == "ranged-tls"
    assert bench.left_over() == []
    kept = found.vmlinux.read_bytes()
    read = elf.read(found.vmlinux)
    assert read.build_id == archives.BUILD_ID
    dwarf = read.section(".debug_info")
    assert dwarf is not None
    assert kept[dwarf.offset : dwarf.offset + dwarf.size] == random.Random(1).randbytes(120_000)[20_000:]
    assert read.section(".rela.debug_info") is None
    assert len(kept) < 110_000


@pytest.mark.slow
def test_the_same_as_from_the_whole_package(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    by_ranges = bench.locate().vmlinux.read_bytes()
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    bench.archive.requests.clear()
    whole = bench.locate(vmcore=bench.vmcore(banner=None), given=None)
    assert whole.vmlinux.read_bytes() == by_ranges
    (whole.directory / "about.json").unlink()
    again = bench.locate()
    assert again.verification_detail == "SHA-256 of the whole package"
    assert again.vmlinux.read_bytes() == by_ranges


def test_strict_reads_all(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    assert bench.locate().verification_detail == "SHA-256 of the whole package"
    assert bench.archive.sent == len(bench.package)
    monkeypatch.setenv("VMBOX_VERIFY", "sometimes")
    with pytest.raises(ConfigurationError):
        bench.locate(vmcore=bench.vmcore(build_id="00ff"))


def test_strict_does_not_use_what_was_read_by_ranges(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.locate().verification == "ranged-tls"
    monkeypatch.setenv("VMBOX_VERIFY", "strict")
    assert bench.locate().verification == "hash"
    assert any("nothing signed was compared" in notice for notice in bench.heard.notices)


def test_without_build_id_all_is_read(bench: Bench) -> None:
    assert bench.locate(vmcore=bench.vmcore(build_id=None)).verification_detail == "SHA-256 of the whole package"


def test_a_server_without_ranges(bench: Bench) -> None:
    bench.archive.ranges = False
    assert bench.locate().verification_detail == "SHA-256 of the whole package"
    assert any("whole files only" in notice for notice in bench.heard.notices)


def test_one_block(bench: Bench) -> None:
    bench.put(archives.deb({archives.PATH: archives.vmlinux()}, "xz"))
    assert bench.locate().verification_detail == "SHA-256 of the whole package"
    assert any("one xz block" in notice for notice in bench.heard.notices)


def test_another_build_costs_little(bench: Bench) -> None:
    with pytest.raises(DebuginfoMismatch):
        bench.locate(vmcore=bench.vmcore(build_id="00ff"))
    assert bench.archive.sent < 0.15 * len(bench.package)


@pytest.mark.slow
def test_flipped_bytes(bench: Bench) -> None:
    # In the ar header, in the first blocks, and in the index.
    for flip in (3, 40_000, 90_000, len(bench.package) - 40):
        bench.archive.flip = flip
        with pytest.raises(VerificationFailed):
            bench.locate()
        assert bench.left_over() == []
    bench.archive.flip = None
    assert bench.locate().proof


@pytest.mark.slow
def test_cut_and_busy(bench: Bench) -> None:
    bench.archive.cut_after = [10, 5, 100, 3, 0, 1]
    bench.archive.statuses = [503, 0, 0, 500]
    assert bench.locate().proof


def test_gone(bench: Bench) -> None:
    bench.archive.statuses = [404] * 9
    with pytest.raises(DebuginfoNotFound, match="no debuginfo"):
        bench.locate()


def test_a_length_other_than_in_the_index_is_refused(bench: Bench) -> None:
    bench.archive.wrong_total = 5
    with pytest.raises(VerificationFailed, match="bytes long"):
        bench.locate()


def test_no_vmlinux(bench: Bench) -> None:
    bench.put(archives.deb({"./x": bytes(100_000)}, "blocks", block=BLOCK))
    with pytest.raises((VerificationFailed, DebuginfoNotFound), match="no vmlinux"):
        bench.locate()


def test_blocks_of_xz() -> None:
    data = random.Random(2).randbytes(50_000) + bytes(50_001)
    stream = archives.multi_block_xz(data, 9_999)

    def read_at(offset: int, size: int) -> bytes:
        return stream[offset : offset + size]

    header, blocks = xz.blocks(read_at, len(stream))
    assert len(blocks) == 11
    assert b"".join(xz.unpack(header, read_at(block.offset, block.size), block) for block in blocks) == data
    damaged = bytearray(read_at(blocks[0].offset, blocks[0].size))
    for at in (5, len(damaged) // 2, len(damaged) - 1):
        damaged[at] ^= 1
        with pytest.raises(CorruptData):
            xz.unpack(header, bytes(damaged), blocks[0])
        damaged[at] ^= 1
    with pytest.raises(CorruptData):
        xz.unpack(header, bytes(damaged[:-4]), blocks[0])
    with pytest.raises(xz.NotSeekable):
        xz.blocks(lambda offset, size: (stream * 2)[offset : offset + size], 2 * len(stream))


def test_no_dump_is_read_by_a_redirect_out_of_tls(tls_archive: archives.Archive) -> None:
    tls_archive.files["/vmcore"] = b"a dump" * 100
    file = http.HttpDump(f"{tls_archive.url}/vmcore", None, None, QUIET)
    assert file.size == 600
    with archives.serve(archives.Archive(files=tls_archive.files)) as plain:
        tls_archive.redirect = plain.url
        with pytest.raises(DumpUnreadable, match="without TLS: refused"):
            file.read_at(0, 10)
        assert not plain.requests

"""Damaged dumps give an answer or a VmboxError, never another exception, and soon."""

import time
from pathlib import Path

import dump_writer
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sandbox.dump import identify, read_log
from sandbox.dump.release import classify
from sandbox.errors import VmboxError

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "dumps"
_ZLIB = (FIXTURES / "x86_64-6.1-zlib").read_bytes()
SEEDS = [
    _ZLIB,
    (FIXTURES / "aarch64-6.1-zlib").read_bytes(),
    dump_writer.flatten(_ZLIB, piece=4096),
    dump_writer.elf({pfn: bytes(4096) for pfn in range(3)}, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n", many=True),
    dump_writer.flatten(dump_writer.elf({1: bytes(4096)}, b"OSRELEASE=6.1.0\n"), piece=100),
]


def survive(path):
    start = time.process_time()  # the machine may be busy
    try:
        identify(path)
        for _ in read_log(path):
            pass
    except VmboxError as error:
        message = error.message
        assert "\n" not in message
    assert time.process_time() - start < 2 + 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "vmcore"


_bytes_in_the_header = st.lists(
    st.tuples(st.integers(0, 12000), st.sampled_from([b"\xff", b"\0", b"\x7f\xff\xff\xff", b"\x80", b"\1" * 8])),
    min_size=1,
    max_size=6,
)


@given(seed=st.sampled_from(SEEDS), changes=_bytes_in_the_header, cut=st.none() | st.integers(0, 30000))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_headers(path, seed, changes, cut):
    content = bytearray(seed if cut is None else seed[:cut])
    for at, value in changes:
        content[at : at + len(value)] = value
    path.write_bytes(content)
    survive(path)


@given(
    seed=st.sampled_from(SEEDS),
    at=st.floats(0, 1),
    value=st.binary(min_size=1, max_size=200),
    cut=st.floats(0, 1),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_dump_damaged_anywhere_is_answered(path, seed, at, value, cut):
    content = bytearray(seed[: int(len(seed) * max(cut, 0.3))])
    start = int(at * len(content))
    content[start : start + len(value)] = value
    path.write_bytes(content)
    survive(path)


_MAGICS = [
    *(
        b"KDUMP   ",
        b"DISKDUMP",
        b"\x7fELF\2\1\1",
        b"\x7fELF\1\2\1",
        b"makedumpfile\0\0\0\0",
        b"QEVM",
        b"LibvirtQemudSave",
    ),
    *(b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x04\x22\x4d\x18", b"\x89LZO\0\r\n\x1a\n", b"PK\3\4", b"070701"),
    *(bytes.fromhex("ed238f61730119a8"), bytes.fromhex("a8190173618f23fd"), b"\xd2\xbe\xd2\xbe", b"\x28\xb5\x2f\xfd"),
    *(bytes(257) + b"ustar\x0000", bytes(4096) + b"sadump\0\0", b"\xed\xeb\x0f\xf0", b"[    0.000000] Linux version "),
]


@given(kind=st.integers(0, len(_MAGICS) - 1), rest=st.binary(max_size=600), repeat=st.integers(1, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_noise_behind_magics(path, kind, rest, repeat):
    path.write_bytes(_MAGICS[kind] + rest * repeat)
    survive(path)


@given(release=st.text("0123456789.-_+elfcrtubdgp \0\n\u00e9", max_size=90))
@settings(max_examples=60, deadline=None)
def test_any_release_has_a_class(release):
    assert classify(release, release).klass


@pytest.mark.parametrize(
    "text",
    [
        b"[    0.000000] Linux version 1\n[    0.100000] x\n" + b"\n" * 60_000,
        b"[    0.000000] Linux version 1 (\n[    0.1] x\n" + b"[    1.000000] Tainted: A" + b" " * 1_000_000,
        b"[    0.000000] a\n[    0.000000] Kernel panic - " + b"- " * 100_000 + b"#1" * 1_000_000,
    ],
    ids=["many lines", "a long line", "a long panic"],
)
def test_a_crafted_log_ends_in_time(path, text):
    path.write_bytes(text)
    survive(path)

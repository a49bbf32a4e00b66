"""Indexes of gzip files that unpack to much more than is usual."""

import gzip
import io
import random
import time

import pytest

from sandbox.errors import DumpUnreadable
from sandbox.formats import gzip_index
from sandbox.formats.streams import BytesSource, CorruptData

pytest.importorskip("indexed_gzip")

PIECE = random.Random(1).randbytes(100_000) + bytes(3 << 20)


@pytest.fixture(scope="module")
def packed():
    return gzip.compress(PIECE * 40, compresslevel=1)


def made(packed, advance=lambda _: None):
    return gzip_index.GzipSource(BytesSource(packed), io.BytesIO(), advance=advance)


def index_of(source):
    out = io.BytesIO()
    source.save(out)
    return out.getvalue()


@pytest.mark.slow
def test_an_index_with_too_many_places_is_begun_again_with_fewer(packed, monkeypatch):
    usual = index_of(made(packed))
    monkeypatch.setattr(gzip_index, "_TOO_MANY", 10)
    steps = []
    source = made(packed, steps.append)
    assert len(index_of(source)) < len(usual) / 3
    assert min(steps) < 0
    assert sum(steps) == pytest.approx(len(packed), abs=2 << 20)
    at = 35 * len(PIECE)
    assert source.read_at(at, 100_000) == PIECE[:100_000]


@pytest.mark.slow
def test_what_unpacks_to_too_much_has_no_index(packed, monkeypatch):
    monkeypatch.setattr(gzip_index, "_TOO_MANY", 1)
    monkeypatch.setattr(gzip_index, "_FARTHEST", 4 << 20)
    with pytest.raises(CorruptData, match="more than an index"):
        made(packed)


def test_an_index_takes_time_in_proportion_to_the_file_at_most(packed, monkeypatch):
    monkeypatch.setattr(gzip_index, "_SECONDS", 0)
    made(packed)
    monkeypatch.setattr(gzip_index, "_BYTES_A_SECOND", 1e12)
    with pytest.raises(CorruptData, match="takes too long"):
        made(packed)


def test_an_interrupt_ends_the_making_of_an_index(packed):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(packed, interrupt)


def test_a_gzip_file_of_very_many_members_is_refused_at_once():
    """The library takes time by the square of their number."""
    many = gzip.compress(b"x" * 5000) + gzip.compress(b"") * 20_000
    start = time.process_time()
    with pytest.raises(CorruptData, match="more than one member"):
        made(many)
    assert time.process_time() - start < 2


class Interrupted(BytesSource):
    """Its read number `last` raises `error`: Ctrl-C, as Python raises it there, or what a server said."""

    reads, last = 0, -1
    error: BaseException

    def read_at(self, offset: int, size: int) -> bytes:
        self.reads += 1
        if self.reads == self.last:
            raise self.error
        return super().read_at(offset, size)


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt(), DumpUnreadable("the server has another version")])
@pytest.mark.parametrize("later", [False, True])
def test_what_ends_a_read_is_no_damage_of_the_file(error, later):
    source = Interrupted(gzip.compress(PIECE * 8, compresslevel=1))

    def read() -> None:
        source.last = -1 if later else 3
        opened = gzip_index.GzipSource(source, io.BytesIO())
        source.last = source.reads + 1
        opened.read_at(0, 100)

    source.error = error
    with pytest.raises(type(error)):
        read()

"""The index of a flattened dump: any number of pieces, in any order, written twice, cut; kept for the next look."""

import os
import struct
from pathlib import Path

import dump_writer
import pytest
from hypothesis import given, settings, strategies as st

from sandbox.dump import identify, index_pieces, memory_dump, piece_index, read_log
from sandbox.dump.flattened import FlattenedSource
from sandbox.dump.source import FileSource
from sandbox.dump.unpacking import forget
from sandbox.host import paths

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "dumps" / "x86_64-6.1-zlib"
HEAD = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(4096, b"\0")

PIECES = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=80)


class Bytes:
    def __init__(self, data):
        self.data, self.size, self.reads = data, len(data), 0

    def read_at(self, offset, size):
        self.reads += 1
        return self.data[offset : offset + size] if offset >= 0 else b""


def written(pieces, end=b"\xff" * 16):
    """(flattened file, rearranged dump) of pieces (place, content) in this order."""
    flat, plain = bytearray(HEAD), bytearray()
    for place, content in pieces:
        flat += struct.pack(">qq", place, len(content)) + content
        plain += bytes(max(0, place + len(content) - len(plain)))
        plain[place : place + len(content)] = content
    return bytes(flat + end), bytes(plain)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(PIECES, st.sampled_from([1, 3, 1 << 17]), st.sampled_from([1, 4, 512]), st.integers(0, 400), st.integers(1, 400))
def test_each_byte_is_of_the_piece_written_last(pieces, sorted_at_once, block, offset, size):
    flat, plain = written((place, bytes([number + 1]) * size) for number, (place, size) in enumerate(pieces))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece_index, "_SORTED_AT_ONCE", sorted_at_once)
        patch.setattr(piece_index, "_BLOCK", block)
        patch.setattr(piece_index, "_EARLY", 2)
        source = FlattenedSource(Bytes(flat))
        source.complete_index()
        assert (source.size, source.missing(), source.damage) == (len(plain), None, None)
        assert source.read_at(0, 1000) == plain
        assert source.read_at(offset, size) == plain[offset : offset + size]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(PIECES, st.integers(0, 2000))
def test_of_a_cut_file_everything_up_to_the_cut_is_there(pieces, cut):
    pieces = [(place, bytes([number + 1]) * size) for number, (place, size) in enumerate(pieces)]
    flat, _ = written(pieces, end=b"")
    cut = max(4096, len(flat) - cut)
    left, at = [], 4096
    for place, content in pieces:
        at += 16
        left.append((place, content[: max(0, cut - at)]))
        at += len(content)
    source = FlattenedSource(Bytes(flat[:cut]))
    source.complete_index()
    assert source.read_at(0, 1000) == written(one for one in left if one[1])[1]
    assert "end mark" in source.missing()


def test_small_pieces_are_read_many_at_a_time_and_large_ones_skipped():
    small = Bytes(written((number * 1024, b"x" * 1024) for number in range(4000))[0])
    piece_index.complete(small)
    assert small.reads < 4000 * 1040 / (256 << 10) + 5
    large = Bytes(written((number << 16, b"x" * (1 << 16)) for number in range(50))[0])
    piece_index.complete(large)
    assert large.reads < 60


def many(path):
    """A dump whose first header is overwritten by the last piece, and whose pieces are kept in an index."""
    dump = FIXTURE.read_bytes()
    pieces = [(at, dump[at : at + 100]) for at in range(0, len(dump), 100)]
    path.write_bytes(written([*pieces, (0, dump[:464])])[0])
    return path


@pytest.fixture
def large(monkeypatch, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(piece_index, "LARGE", 1 << 16)


@pytest.fixture
def no_time(monkeypatch):
    """The clock is a fake: walking through this one takes a few milliseconds, through one of 100 GB many seconds."""
    monkeypatch.setattr(memory_dump, "SECONDS", 0)


@pytest.mark.usefixtures("no_time")
def test_a_dump_with_more_pieces_than_there_is_time_for_is_identified_by_its_front(tmp_path):
    path = many(tmp_path / "vmcore")
    found = identify(path)
    assert (found.flattened, found.release, found.complete) == (True, "6.1.0-50-cloud-amd64", True)
    assert (found.build_id, found.panic) == (identify(FIXTURE).build_id, None)
    assert "too many pieces" in found.skipped


@pytest.mark.usefixtures("no_time", "large")
def test_with_a_kept_index_everything_is_told_at_once(tmp_path):
    path = many(tmp_path / "vmcore")
    index_pieces(path, paths.unpacked_dir())
    found = identify(path)
    assert (found.panic, found.skipped) == (identify(FIXTURE).panic, None)
    assert found.panic is not None
    index = next(paths.unpacked_dir().glob("*/pieces"))
    made = index.stat()
    assert (index.parent.stat().st_mode & 0o777, made.st_mode & 0o777) == (0o700, 0o600)
    index_pieces(path, paths.unpacked_dir())
    # The same file, of which only the times say that it was used.
    kept = index.stat()
    assert (kept.st_ino, kept.st_size) == (made.st_ino, made.st_size)
    assert [*index.parent.iterdir()] == [index]


@pytest.mark.usefixtures("no_time", "large")
@pytest.mark.parametrize("harm", ["changed dump", "cut", "another's words", "others may write", "a link"])
def test_an_index_that_is_not_to_be_trusted_is_not_used(tmp_path, harm):
    path = many(tmp_path / "vmcore")
    index_pieces(path, paths.unpacked_dir())
    index = next(paths.unpacked_dir().glob("*/pieces"))
    match harm:
        case "changed dump":
            os.utime(path, (1, 1))
        case "cut":
            index.write_bytes(index.read_bytes()[:-1])
        case "another's words":
            index.write_bytes(b"x" * index.stat().st_size)
        case "others may write":
            index.chmod(0o666)
        case _:
            index.rename(tmp_path / "index")
            index.symlink_to(tmp_path / "index")
    assert identify(path).panic is None
    index_pieces(path, paths.unpacked_dir())
    assert identify(path).panic is not None


@pytest.mark.usefixtures("large")
def test_the_log_is_read_through_the_kept_index(tmp_path):
    lines = [*read_log(many(tmp_path / "vmcore"), unpack_into=tmp_path / "dumps")]
    assert lines == [*read_log(FIXTURE)]
    assert len([*(tmp_path / "dumps").glob("*/pieces")]) == 1
    assert lines == [*read_log(tmp_path / "vmcore")]


def test_nothing_is_kept_of_small_and_plain_dumps(tmp_path):
    flat = tmp_path / "vmcore"
    flat.write_bytes(dump_writer.flatten(FIXTURE.read_bytes()))
    for path in (flat, FIXTURE, tmp_path, tmp_path / "nothing"):
        index_pieces(path, tmp_path / "dumps")
    assert not (tmp_path / "dumps").exists()


@pytest.mark.usefixtures("large")
def test_a_walk_reports_its_progress(tmp_path):
    told = []

    class Told:
        def step(self, title, *, total, unit):
            told.append((title, total, unit))
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def advance(self, amount):
            told.append(amount)

    path = many(tmp_path / "vmcore")
    with FileSource(path) as source:
        piece_index.keep(source, paths.unpacked_dir(), Told())
    assert told[0] == ("indexing vmcore", path.stat().st_size, "B")
    assert 0 < sum(told[1:]) <= path.stat().st_size


@pytest.mark.usefixtures("large")
def test_closing_removes_the_index(tmp_path):
    path = many(tmp_path / "vmcore")
    index_pieces(path, tmp_path / "dumps")
    assert forget(path, tmp_path / "dumps")
    assert not [*(tmp_path / "dumps").iterdir()]
    assert not forget(path, tmp_path / "dumps")
    assert path.exists()

import pytest
from hypothesis import given, settings, strategies as st

from sandbox.formats import lzo, snappy
from sandbox.formats.streams import CorruptData


def test_lzo_literals_and_matches():
    # 4 literals, M2 match of 4 at distance 4, end mark.
    assert lzo.decompress(b"\x15abcd\x6c\x00\x11\x00\x00", 4096) == b"abcdabcd"
    # Overlapping match (distance 1) of 33 + 2 bytes through M3 with an extended length.
    assert lzo.decompress(b"\x12a\x20\x02\x00\x00\x11\x00\x00", 4096) == b"a" * 36


def test_snappy_literals_and_copies():
    assert snappy.decompress(b"\x08\x0cabcd\x01\x04", 4096) == b"abcdabcd"
    assert snappy.decompress(b"\x05\x00a\x01\x01", 4096) == b"aaaaa"


@pytest.mark.slow
@pytest.mark.parametrize("module", [lzo, snappy])
@given(data=st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_end_bounded(module, data):
    try:
        out = module.decompress(data, 4096)
    except CorruptData:
        return
    assert len(out) <= 4096 + 300

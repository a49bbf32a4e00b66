"""What is written to a terminal in raw mode."""

from __future__ import annotations

import pytest

from sandbox.session import terminal


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"OCI runtime exec failed: no sh\nunknown\n", b"OCI runtime exec failed: no sh\r\nunknown\r\n"),
        (b"crash 9.0.2\r\n\r\ncrash> ", b"crash 9.0.2\r\n\r\ncrash> "),
        (b"\n", b"\r\n"),
    ],
)
def test_first_lines_begin_on_the_left(said: bytes, shown: bytes) -> None:
    assert terminal._returned(said) == shown

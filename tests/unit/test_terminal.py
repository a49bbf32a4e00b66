"""What is written to a terminal in raw mode."""

from __future__ import annotations

import pytest

from sandbox.commands import shell
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


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("xterm-256color", "xterm-256color"),
        ("linux", "linux"),
        ("dumb", "dumb"),
        ("xterm-ghostty", "xterm-256color"),
        ("foot", "xterm-256color"),
        ("alacritty", "xterm-256color"),
        ("screen.xterm-new", "screen-256color"),
        ("tmux-direct", "tmux-256color"),
        ("", "xterm"),
    ],
)
def test_a_terminal_that_no_image_describes_is_taken_for_one_that_it_does(name: str, taken: str) -> None:
    assert shell.term_of(name) == taken

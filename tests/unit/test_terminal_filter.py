"""What a hostile dump may say to a terminal, byte by byte, and what line editing, less and gdb say to it."""

from __future__ import annotations

import os
import random
import re
import time

import pytest

from sandbox.session.terminal_filter import TerminalFilter

HIDDEN = {
    "OSC 52 sets the clipboard": b"\x1b]52;c;cm0gLXJmIH4K\x07",
    "OSC 52 asks for it, ended by ST": b"\x1b]52;c;?\x1b\\",
    "title": b"\x1b]0;rm -rf ~\x07",
    "colour query": b"\x1b]11;?\x1b\\",
    "hyperlink": b"\x1b]8;;https://evil.example/\x1b\\",
    "shell integration": b"\x1b]133;C\x07\x1b]1337;File=name=eA==:eA==\x07",
    "ended by C1 ST": b"\x1b]0;x\xc2\x9c",
    "DECRQSS": b'\x1bP$q"p\x1b\\',
    "terminfo query": b"\x1bP+q544e\x1b\\",
    "sixels": b"\x1bPq#0;2;0;0;0#0~~\x1b\\",
    "through tmux": b"\x1bPtmux;\x1b\x1b]52;c;eA==\x07\x1b\\",
    "APC, a picture": b"\x1b_Gf=24;AAAA\x1b\\",
    "PM": b"\x1b^x\x1b\\",
    "SOS": b"\x1bXx\x1b\\",
    "C1 OSC": b"\xc2\x9d52;c;eA==\x07",
    "C1 DCS": b"\xc2\x90$qm\xc2\x9c",
    "C1 APC, PM, SOS": b"\xc2\x9fx\x1b\\\xc2\x9ex\x1b\\\xc2\x98x\x1b\\",
    "C1 CSI query": b"\xc2\x9b6n",
    "other C1": b"\xc2\x84\xc2\x85\xc2\x8d\xc2\x9a",
    "aborted": b"\x1b]0;x\x18\x1b]0;x\x1a",
    "device attributes": b"\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1bZ",
    "device status": b"\x1b[5n\x1b[6n\x1b[?6n\x1b[?15n",
    "DECRQM": b"\x1b[?1004$p\x1b[4$p",
    "DECREQTPARM": b"\x1b[x\x1b[1x",
    "window, title, size": b"\x1b[21t\x1b[22;0;0t\x1b[8;1;1t\x1b[14t",
    "keyboard protocols": b"\x1b[>4;2m\x1b[?4m\x1b[>1u\x1b[?u\x1b[=1u",
    "mouse and focus": b"\x1b[?1000h\x1b[?1003h\x1b[?1006h\x1b[?1004h\x1b[1;2;3;4;5T",
    "mouse beside what is let through": b"\x1b[?25;1003h",
    "printer": b"\x1b[5i\x1b[?5i",
    "answers of eight bits": b"\x1b F\x1b G",
    "version": b"\x1b[>q\x1b[>0q",
    "graphics": b"\x1b[?1;1;0S",
    "reset and what was before": b"\x1bc\x1b[!p\x1b[3J",
    "checksum of the screen": b"\x1b[1;1;1;1;1;1*y",
    "counts that take for ever": b"\x1b[99999999999b\x1b[1000000000S",
    "answerback": b"\x05",
    "NUL, XOFF, DEL": b"\x00\x11\x13\x7f",
    "ESC alone": b"\x1b\x1b\x1b\x00",
    "charsets": b"\x1b%G\x1b%@\x1bn\x1b#8",
}

SHOWN = [
    b"crash> bt\r\n",
    b"\x07\x08 \t\x0c",
    b"\x1b[?2004hcrash> \x1b[?2004l\r",
    b"\x1b[?1034h",
    b"\x1b[1;31mred\x1b[0m\x1b[m\x1b[38;5;196m\x1b[48;2;1;2;3m\x1b[4:3m\x1b(B\x1b[m",
    b"\x1b[K\x1b[0K\x1b[2K\x1b[J\x1b[H\x1b[2J\x1b[10;20H\x1b[A\x1b[3B\x1b[C\x1b[12D\x1b[G\x1b[5G",
    b"\x1b[P\x1b[2P\x1b[@\x1b[4@\x1b[L\x1b[M\x1b[3X\x1b[4h\x1b[4l",
    b"\x1b[?1049h\x1b[?1h\x1b=\x1b[1;24r\x1bM\x1b[?12l\x1b[?25h\x1b[?25l\x1b[?12;25h\x1b[?1l\x1b>\x1b[?1049l",
    b"\x1b7\x1b8\x1b[s\x1b[u",
    b"\x1b(0lqk\x1b(B \x0elqk\x0f",
    "Straße, 日本語, 💣".encode(),
]


@pytest.mark.parametrize("said", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_what_does_more_than_show_is_left_out(said: bytes, size: int) -> None:
    assert _filtered(b"before" + said + b"after", size) == b"beforeafter"


@pytest.mark.parametrize("said", SHOWN)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_what_shows_is_shown_to_the_byte(said: bytes, size: int) -> None:
    assert _filtered(said, size) == said


@pytest.mark.parametrize("size", [1, 1000])
def test_bytes_that_are_no_text_are_shown_as_escapes(size: int) -> None:
    # A terminal of eight bits takes them for controls, and a careless one a character in too many bytes for ESC.
    assert _filtered(b"\x9b6n \x9d0;x\x07 \xc0\x9b[c \xe0\x80\x9b[c \xff", size) == (
        rb"\x9b6n \x9d0;x" + b"\x07" + rb" \xc0\x9b[c \xe0\x80\x9b[c \xff"
    )


def test_a_single_character_that_begins_a_sequence_becomes_two() -> None:
    assert _filtered(b"\xc2\x9b31mred", 1) == b"\x1b[31mred"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_string_without_its_end_hides_neither_the_next_line_nor_all_that_follows(size: int) -> None:
    assert _filtered(b"\x1b]0;x\r\ncrash> ", size) == b"\r\ncrash> "
    shown = _filtered(b"\x1b]0;" + b"x" * 10_000 + b"\x1b]52;c;eA==\x07crash> ", size)
    assert len(shown) < 6100
    assert shown.endswith(b"xcrash> ")


def test_a_sequence_without_its_end_is_text() -> None:
    shown = _filtered(b"\x1b[" + b"1" * 1000 + b"n", 1)
    assert b"\x1b" not in shown
    assert _filtered(b"\x1b[3\n1m", 1) == b"[3\n1m"


ALLOWED = re.compile(
    rb"\x1b\[[0-9;:]*m|\x1b\[[0-9;]*[@A-HIJKLMPSTXZ`abdefgrsu]|\x1b\[4[hl]|\x1b\[\?[0-9;]+[hl]|\x1b[78=>DEHM]|\x1b[()][0AB]"
)


@pytest.mark.slow
def test_whatever_comes_only_what_is_known_is_left() -> None:
    dice = random.Random(20261127)
    alphabet = [*(bytes([one]) for one in b"\x1b[]P\\\x07\xc2\x9b\x9d\x9c?6ncm (0;h\n$p"), b"\xf0\x9f"]
    for _ in range(3000):
        said = b"".join(dice.choices(alphabet, k=40))
        whole = _filtered(said, 1000)
        assert whole == _filtered(said, 1), said
        rest = ALLOWED.sub(b"", whole)
        assert not re.search(rb"[\x00-\x06\x10-\x1f\x7f]", rest), said
        assert not re.search("[\x80-\x9f]", whole.decode()), said


@pytest.mark.slow
@pytest.mark.parametrize("unit", [b"\x1b", b"\x1b[", b"\x1b]", b"\x1b ", b"\xc2\x9b0", b"0;", b"\x1bP\x1b"])
def test_a_flood_costs_its_length(unit: bytes) -> None:
    said = unit * ((1 << 18) // len(unit))
    began = time.process_time()
    _filtered(b"\x1b[" + said, 65536)
    assert time.process_time() - began < 2


def _filtered(said: bytes, size: int) -> bytes:
    shown = TerminalFilter()
    return b"".join(shown(said[at : at + size]) for at in range(0, len(said), size))


def test_keys_are_heard_while_output_comes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.session import terminal

    shown, keys = os.open("/dev/null", os.O_WRONLY), os.pipe()
    os.write(keys[1], b"\x03")
    heard: list[bytes] = []

    class Program:
        def fileno(self) -> int:
            return keys[0]

        def pending(self) -> bool:
            return True

        def read(self) -> bytes:
            return b"" if heard else b"y\r\n"

        def write(self, data: bytes) -> None:
            heard.append(data)

        def exit_code(self) -> int:
            return 130

    class Stream:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor

        def fileno(self) -> int:
            return self._descriptor

    monkeypatch.setattr("sys.stdin", Stream(keys[0]))
    monkeypatch.setattr("sys.stdout", Stream(shown))
    assert terminal.attach(Program()) == 130  # type: ignore[arg-type] # a stand-in
    assert heard == [b"\x03"]
    for descriptor in (shown, *keys):
        os.close(descriptor)


def test_the_pump_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    from sandbox.session import terminal

    ours, theirs = os.pipe()
    keys, _typing = os.pipe()

    pieces = [b"\x1b]52;c;", b"eA==\x07crash> \x1b[6", b"n\n", b""]

    class Program:
        def fileno(self) -> int:
            return keys

        def pending(self) -> bool:
            return True

        def read(self) -> bytes:
            return pieces.pop(0)

        def exit_code(self) -> int:
            return 0

    class Stream:
        def __init__(self, descriptor: int) -> None:
            self._descriptor = descriptor

        def fileno(self) -> int:
            return self._descriptor

    monkeypatch.setattr("sys.stdin", Stream(keys))
    monkeypatch.setattr("sys.stdout", Stream(theirs))
    heard: list[bytes] = []

    class Watcher:
        def typed(self, keys: bytes) -> None:
            pass

        def printed(self, output: bytes) -> None:
            heard.append(output)

    assert terminal.attach(Program(), Watcher()) == 0  # type: ignore[arg-type]
    assert os.read(ours, 100) == b"crash> \n"
    assert b"".join(heard).startswith(b"\x1b]52")
    for descriptor in (ours, theirs, keys, _typing):
        os.close(descriptor)

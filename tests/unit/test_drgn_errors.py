"""What drgn's commands say when they refuse what they were asked: drgn 0.3.0 prints some of it as an answer."""

from __future__ import annotations

import pytest

from sandbox.debugger import DEBUGGERS

HEADER = b"MODULE  NAME  TEXT_BASE  SIZE  OBJECT FILE\n"


@pytest.mark.parametrize(
    ("command", "said", "refused"),
    [
        ("bt 999999", b"no such process with PID 999999\n", True),
        ("task 999999", b"no such process with PID 999999\n", True),
        ("files 999999 | cat", b"no such process with PID 999999\n", True),
        ("sym nosuch", b"symbol not found: nosuch\npossible alternatives:\n  (none found)\n", True),
        ("sym schedule nosuch", b"ffffffff (T) schedule\nsymbol not found: nosuch\n", True),
        ("irq 99999", b"irq: invalid IRQ number: 99999\n", True),
        ("help nosuch", b"No command named 'nosuch'\n", True),
        ("mod -s nosuch", HEADER, True),
        ("mod -s ext4", HEADER + b"ffffffffc04952c0  ext4  ffffffffc0492000  20480  /x/ext4.ko\n", False),
        ("mod", HEADER, False),
        ("log -t", b"irq: invalid IRQ number: 7\nno such process with PID 1\n", False),
        ("!echo 'no such process with PID 1'", b"no such process with PID 1\n", False),
        ("bt", b"PID: 1  COMMAND: no such process with PID 2\n", False),
        ("", b"", False),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_refusal_is_an_error(command: str, said: bytes, refused: bool, size: int) -> None:
    complaints = DEBUGGERS["drgn"].complaints(command, "")
    for at in range(0, len(said), size):
        complaints.feed(said[at : at + size])
    assert complaints.found() is refused

"""A page of the kernel itself that is missing is explained once, wherever the message is torn."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sandbox.case import store
from sandbox.case.places import VIEW_LOG
from sandbox.commands.lost_pages import LostPages
from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.model import Case

MakeCase = Callable[..., Case]
MESSAGE = b'bt: page excluded: kernel virtual address: ffff909980440270  type: "stack contents"\n'


@pytest.mark.parametrize("at", [1, 10, 30, 50])
def test_it_is_said_once_also_if_the_message_is_torn(
    at: int, capsys: pytest.CaptureFixture[str], make_case: MakeCase
) -> None:
    lost = LostPages(make_case(release="7.2.12+deb14-cloud-amd64"), DEFAULT)
    got = bytearray()
    for _ in range(2):
        give = lost.listen(got.extend)
        give(b"x" * 1000 + MESSAGE[:at])
        give(MESSAGE[at:])
        lost.say()
    assert got == (b"x" * 1000 + MESSAGE) * 2
    said = capsys.readouterr().err
    assert said.count("a page of the kernel itself is not in the dump: makedumpfile before") == 1


def test_rows_that_are_left_out_are_explained(capsys: pytest.CaptureFixture[str], make_case: MakeCase) -> None:
    for message in (
        b"drgn: crash: error: interrupts (9) are left out: pages of them are not in the dump\n",
        b"drgn: crash: error: qemu_fw_cfg is left out: pages of it are not in the dump\n",
    ):
        lost = LostPages(make_case(release="7.2.12+deb14-cloud-amd64"), DEFAULT)
        lost.listen(lambda piece: None)(message)
        lost.say()
        assert "makedumpfile before" in capsys.readouterr().err


def test_nothing_is_said_of_other_answers_and_of_kernels_without_a_known_fault(
    capsys: pytest.CaptureFixture[str], make_case: MakeCase
) -> None:
    for release, answer in (
        ("7.2.12", b"PID: 1"),
        ("7.2.12", MESSAGE.replace(b"kernel", b"user")),
        ("5.10.0-32-amd64", MESSAGE),
    ):
        lost = LostPages(make_case(release=release), DEFAULT)
        lost.listen(lambda piece: None)(answer)
        lost.say()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("debugger", "message"),
    [
        ("crash", b"bt: compressed kdump: uncompress failed: -5\n"),
        ("drgn", b"drgn: crash: error: could not read memory from kdump: Decompresion failed: invalid data\n"),
    ],
)
@pytest.mark.parametrize("at", [1, 30, 55])
def test_damage_is_said_once(
    debugger: str, message: bytes, at: int, capsys: pytest.CaptureFixture[str], make_case: MakeCase
) -> None:
    lost = LostPages(make_case(release="6.1"), DEBUGGERS[debugger])
    for _ in range(3):
        give = lost.listen(lambda piece: None)
        give(b"x" * 1000 + message[:at])
        give(message[at:])
        lost.say()
    assert capsys.readouterr().err.count("pages of the dump are damaged") == 1


def test_why_a_view_gave_an_error_is_said_where_it_happened(
    capsys: pytest.CaptureFixture[str], make_case: MakeCase
) -> None:
    case = make_case()
    (case.directory / store.VIEW).write_text(str(case.directory))
    said = case.directory / VIEW_LOG
    said.write_text("an older one")
    os.utime(said, (1, 1))
    lost = LostPages(case, DEFAULT)
    lost.say()
    assert capsys.readouterr().err == ""
    said.write_text("https://host.example/vmcore: no answer in time   ")
    os.utime(said, (1 << 33, 1 << 33))
    lost.say()
    why = "https://host.example/vmcore: no answer in time"
    assert capsys.readouterr().err == f"vmbox: a part of the dump could not be read: {why}\n"

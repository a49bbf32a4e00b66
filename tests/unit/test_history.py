"""Lines read off a terminal as readline draws them; the bytes are what crash 8.0.2 prints in an xterm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.host import paths
from sandbox.model import Case
from sandbox.session.history import History, TypedLines


def _follow(*events: tuple[bytes, bytes], columns: int = 80) -> list[str]:
    found: list[str] = []
    lines = TypedLines(found.append, lambda: columns)
    for keys, output in events:
        lines.typed(keys)
        for at in range(len(output)):
            lines.printed(output[at : at + 1])
    return found


def test_plain_lines() -> None:
    assert _follow(
        (b"", b"\r\ncrash> "), (b"bt", b"bt"), (b"\r", b"\r\nPID: 1\r\n\x1b[?1l\x1b>crash> "), (b"\r", b"\r\n")
    ) == [
        "bt",
        "",
    ]


def test_edited_recalled_and_wrapped_lines() -> None:
    erased = (b"btx\x7f -a\r", b"btx\x08\x1b[K -a\r\n")
    recalled = (b"\x1b[A\r", b"p 1\x0840+2\r\n")
    long = b"struct task_struct.pid,comm"
    wrapped = (long + b"\r", long[:13] + b" \r" + long[13:] + b"\r\n")
    prompt = (b"", b"crash> ")
    assert _follow(prompt, erased, prompt, recalled) == ["bt -a", "p 40+2"]
    assert _follow(prompt, wrapped, columns=20) == [long.decode()]


def test_what_is_printed_is_not_what_is_typed() -> None:
    completions = (b"sym sysrq_\t\t", b"sym sysrq_\r\nsysrq_a  sysrq_b\r\ncrash> sym sysrq_")
    flood = b"crash> not typed\r\n" * 50
    assert _follow((b"", b"crash> "), completions, (b"a\r", b"a\r\n" + flood)) == ["sym sysrq_a"]


@pytest.mark.parametrize(
    ("events", "lines"),
    [
        ([(b"", b"crash> "), (b"mod -s", b"mod -s"), (b" ", b" "), (b"ext4\r", b"ext4\r\n")], ["mod -s ext4"]),
        ([(b"", b"crash> "), (b"mod -S", b"mod -S"), (b"\r", b"\r\n")], ["mod -S"]),
        # Recalled with the arrow, which is on the screen; pasted, where the second line is not; typed ahead.
        ([(b"", b"crash> "), (b"\x1b[A", b"mod -S"), (b"\r", b"\r\n")], ["mod -S"]),
        ([(b"", b"crash> "), (b"bt\rmod -S\n", b"bt\r\n")], ["bt", "mod -S"]),
        ([(b"", b"starting"), (b"mod -S\r", b"")], ["mod -S"]),
        (
            [(b"", b"crash> "), (b"mod -s virtio_b", b"mod -s virtio_b"), (b"\t", b"lk "), (b"\r", b"")],
            ["mod -s virtio_blk"],
        ),
    ],
)
def test_a_line_is_known_before_crash_gets_it(events: list[tuple[bytes, bytes]], lines: list[str]) -> None:
    entered: list[str] = []
    follower = TypedLines(lambda _: None, lambda: 80, entered.append)
    for keys, output in events:
        if keys:
            follower.typed(keys)
        follower.printed(output)
    assert entered == lines


def test_history_of_a_case(make_case: Callable[..., Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "state_dir", lambda: tmp_path)
    case = make_case()
    history = History(case)
    assert history.lines() == []
    for line in ("bt", "bt", "", "ps"):
        history.add(line)
    kept = tmp_path / "history" / "abc-docker"
    with kept.open("a") as file:
        file.writelines(f"p {number}\n" for number in range(1500))
    history.add("p 1500")
    assert History(case).lines() == [f"p {number}" for number in range(501, 1501)]
    assert kept.stat().st_mode & 0o077 == 0

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.debugger import DEFAULT
from sandbox.errors import CommandTimeout
from sandbox.progress import QUIET
from sandbox.session import module_debuginfo
from sandbox.session.session import Sink


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("mod -S", frozenset()),
        ("mod -s virtio_blk", {"virtio_blk"}),
        ("lsmod -S", frozenset()),
        ("mod", None),
        ("mod -t", None),
        ("mod -S /my/own/tree", None),
        ("mod -s ext4 /my/own/ext4.ko", None),
        ("mod -d ext4", None),
        ("bt -S 1", None),
        ("", None),
    ],
)
def test_what_a_command_loads(command: str, names: frozenset[str] | None) -> None:
    assert DEFAULT.modules_requested(command) == names


class _Unending:
    """A session whose case was taken over: the list of modules has no end."""

    debugger = DEFAULT

    def __init__(self, vmlinux: Path) -> None:
        self.case = SimpleNamespace(vmlinux=vmlinux)

    def run(self, command: str, sink: Sink, *, timeout: float | None = None) -> None:
        assert timeout is not None
        for _ in range(256):
            sink(b"ffffffffc0000000 forged\n" * 5000)
        raise CommandTimeout(f"{command!r} was stopped after {timeout:g} seconds")


def test_a_list_of_modules_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vmlinux = tmp_path / "vmlinux"
    vmlinux.touch()
    session: Any = _Unending(vmlinux)
    said: list[str] = []
    monkeypatch.setattr(type(QUIET), "notice", lambda _, line: said.append(line))
    tracemalloc.start()
    module_debuginfo.fetch_for("mod -S", session, QUIET)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert said == ["debug files of modules are not fetched: 'mod' was stopped after 120 seconds"]


def test_names_without_an_end_are_not_all_said() -> None:
    assert module_debuginfo.lacks({f"m{number:05}" for number in range(50_000)}).endswith("m00009, and 49990 more")
    assert module_debuginfo.lacks({"b", "a"}) == "not in the debug package: a, b"

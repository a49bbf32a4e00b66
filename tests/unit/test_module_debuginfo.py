from __future__ import annotations

import pytest

from sandbox.debugger import DEFAULT


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

"""Values that name themselves."""

from __future__ import annotations

import pytest

from sandbox.explain import poison


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0x6B6B6B6B6B6B6B6B, "POISON_FREE"),
        (0x6B6B6B6B6B6B6BA3, "POISON_FREE"),
        (0x5A5A5A5A5A5A5A5A, "POISON_INUSE"),
        (0xDEAD000000000100, "LIST_POISON1"),
        (0xDEAD000000000122, "LIST_POISON2"),
        ((1 << 64) - 12, r"ERR_PTR(-12)"),
        (int.from_bytes(b"overflow", "little"), '"overflow"'),
    ],
)
def test_poisons_errors_and_text_are_named(value: int, words: str) -> None:
    said = poison.name(value)
    assert said is not None
    assert words in said


@pytest.mark.parametrize("value", [0, 0x38, 0xFFFF888012345678, 0xDEAD000000000101, 0x6B, 0x4142, (1 << 64) - 4096])
def test_other_values_are_not(value: int) -> None:
    assert poison.name(value) is None

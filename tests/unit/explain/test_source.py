"""Lines of source of a directory that the user named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.explain import source


def test_the_longest_end_of_the_path_is_found(tmp_path: Path) -> None:
    for name in ("fs/super.c", "super.c"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{name} {number}\n" for number in range(1, 41)))
    found = source.excerpt(tmp_path, "/build/linux-6.1/fs/super.c", 20)
    assert [one.number for one in found] == list(range(15, 25))
    assert [one.text for one in found if one.fault] == ["fs/super.c 20"]
    assert source.excerpt(tmp_path, "other/super.c", 1)[0].text == "super.c 1"


def test_a_line_that_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("one\n")
    with pytest.raises(LookupError, match=r"has 1 lines, and not the line 7"):
        source.excerpt(tmp_path, "a.c", 7)
    with pytest.raises(LookupError, match=r"has no fs/b\.c"):
        source.excerpt(tmp_path, "fs/b.c", 7)


def test_no_path_of_debug_information_leads_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    for path in ("../secret", "/../secret", str(tmp_path / "secret"), "link"):
        with pytest.raises(LookupError):
            source.excerpt(inside, path, 1)

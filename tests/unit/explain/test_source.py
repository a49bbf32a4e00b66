"""Lines of source of a directory or a package that the user named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import archives
from sandbox.explain import source, source_package
from sandbox.formats import cpio


def test_the_longest_end_of_the_path_is_found(tmp_path: Path) -> None:
    for name in ("fs/super.c", "super.c"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{name} {number}\n" for number in range(1, 41)))
    found = source.excerpt(tmp_path, "/build/linux-6.1/fs/super.c", 20)
    assert [one.number for one in found] == list(range(15, 25))
    assert [one.text for one in found if one.fault] == ["fs/super.c 20"]
    assert source.excerpt(tmp_path, "other/super.c", 1)[0].text == "super.c 1"


def test_lines_are_those_of_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("one\f\nt\x0bwo\x85\n\nfour\n")
    found = source.excerpt(tmp_path, "a.c", 4)
    assert [(one.number, one.text) for one in found if one.fault] == [(4, "four")]
    assert len(found) == 4


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


TREE = {
    f"linux-6.1/{name}": "".join(f"{name} {number}\n" for number in range(1, 41)).encode()
    for name in ("tools/fs/super.c", "other/super.c", "fs/super.c", "a/b/fs/super.c", "fs/inode.c")
}


def _source_rpm(files: dict[str, bytes]) -> bytes:
    """An RPM as far as it is read: lead, two headers (the payload is not compressed), a cpio archive."""

    def header(*tags: tuple[int, bytes]) -> bytes:
        index, data = b"", b""
        for tag, value in tags:
            index += struct.pack(">4I", tag, 6, len(data), 1)
            data += value + b"\0"
        return b"\x8e\xad\xe8\x01" + bytes(4) + struct.pack(">II", len(tags), len(data)) + index + data

    signature = header()
    payload = b""
    for name, content in {**files, "TRAILER!!!": b""}.items():
        fields = [1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        entry = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        payload += entry + bytes(-len(entry) % cpio.ALIGNMENT) + content + bytes(-len(content) % cpio.ALIGNMENT)
    main = header((1000, b"kernel"), (1125, b"none"))
    return b"\xed\xab\xee\xdb" + bytes(92) + signature + bytes(-len(signature) % 8) + main + payload


def _packages() -> dict[str, bytes]:
    tar = archives.tar(TREE)
    return {
        "linux.tar": tar,
        "linux-6.1.tar.gz": archives.compress(tar, "gz"),
        "linux-source-6.1_6.1_all.deb": archives.deb({"./usr/src/linux.tar.xz": archives.compress(tar, "xz")}),
        "kernel-6.1.src.rpm": _source_rpm({"kernel.spec": b"x", "linux-6.1.tar.xz": archives.compress(tar, "xz")}),
        "kernel-debugsource-6.1.rpm": _source_rpm(
            {f"./usr/src/debug/kernel/{name}": content for name, content in TREE.items()}
        ),
    }


@pytest.mark.parametrize("name", _packages())
def test_source_is_read_out_of_a_package(name: str, tmp_path: Path) -> None:
    package = tmp_path / name
    package.write_bytes(_packages()[name])
    for path in ("fs/super.c", "/build/linux-6.1/fs/super.c", "./fs/super.c"):
        found = source.excerpt(package, path, 20)
        assert [one.number for one in found] == list(range(15, 25))
        assert [one.text for one in found if one.fault] == ["fs/super.c 20"], "and not of a deeper copy"
    for path, words in (("fs/none.c", r"has no fs/none\.c"), ("nowhere/inode.c", r"has no nowhere/inode\.c")):
        with pytest.raises(LookupError, match=words):
            source.excerpt(package, path, 1)
    with pytest.raises(LookupError, match=r"fs/inode\.c has 40 lines, and not the line 41"):
        source.excerpt(package, "fs/inode.c", 41)


def test_a_package_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _packages()["linux-6.1.tar.gz"]
    for name, content, words in (
        ("cut.tar.gz", whole[: len(whole) // 2], "cannot be read"),
        ("no.rpm", b"no package", "cannot be read"),
        ("no.deb", b"no package", "cannot be read"),
        ("notes.txt", b"text", "neither .rpm nor .deb nor .tar"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LookupError, match=words):
            source.excerpt(tmp_path / name, "fs/nothing.c", 1)
    with pytest.raises(LookupError, match="No such file"):
        source.excerpt(tmp_path / "absent.rpm", "fs/super.c", 1)
    # An archive can claim any number of bytes.
    monkeypatch.setattr(source_package, "_MOST_READ", 1000)
    (tmp_path / "linux.tar").write_bytes(archives.tar(TREE))
    with pytest.raises(LookupError, match="too large"):
        source.excerpt(tmp_path / "linux.tar", "fs/nothing.c", 1)


def test_archives_in_archives_have_an_end(tmp_path: Path) -> None:
    """Some gzip files have themselves in them."""
    nested = archives.tar(TREE)
    for depth in range(1, 6):
        nested = archives.tar({"inner.tar": nested})
        (tmp_path / "linux.tar").write_bytes(nested)
        if depth <= 2:
            assert source.excerpt(tmp_path / "linux.tar", "fs/super.c", 1)
    with pytest.raises(LookupError, match="archives in archives"):
        source.excerpt(tmp_path / "linux.tar", "fs/super.c", 1)

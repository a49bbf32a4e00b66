"""Packages made to do harm: nothing is written outside of the cache, and nothing but vmlinux in it."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import archives
from debuginfo_bench import Bench
from sandbox.debuginfo import add
from sandbox.errors import DebuginfoError, NoSpace, VmboxError
from sandbox.host.paths import CACHE_TAG


def _member(
    path: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", data: bytes = b""
) -> Callable[[tarfile.TarFile], None]:
    def put(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.linkname, info.size = kind, link, len(data)
        info.devmajor, info.devminor = 1, 5
        tar.addfile(info, io.BytesIO(data))

    return put


def _deb(*members: Callable[[tarfile.TarFile], None], kind: str = "xz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for put in members:
            put(tar)
    packed = gzip.compress(out.getvalue()) if kind == "gz" else lzma.compress(out.getvalue())
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", b""),
        (f"data.tar.{kind}", packed),
    ]
    package = b"!<arch>\n"
    for name, data in parts:
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return package


VMLINUX = archives.vmlinux()
ESCAPE = "usr/lib/debug/boot/../../../../../escaped/vmlinux-6.1"

HOSTILE = {
    "path": [_member(f"../../../../../escaped/usr/lib/debug/boot/vmlinux-{archives.RELEASE}", data=VMLINUX)],
    "absolute": [_member("/escaped/usr/lib/debug/boot/vmlinux-6.1", data=VMLINUX)],
    "dots": [_member(ESCAPE, data=VMLINUX)],
    "symlink": [_member(archives.PATH, tarfile.SYMTYPE, link="/etc/shadow")],
    "symlink, then through it": [
        _member("./usr", tarfile.SYMTYPE, link="../../escaped"),
        _member(archives.PATH, data=VMLINUX),
    ],
    "hard link": [_member(archives.PATH, tarfile.LNKTYPE, link="/etc/shadow")],
    "device": [_member(archives.PATH, tarfile.CHRTYPE)],
    "block device": [_member(archives.PATH, tarfile.BLKTYPE)],
    "FIFO": [_member(archives.PATH, tarfile.FIFOTYPE)],
    "directory": [_member(archives.PATH, tarfile.DIRTYPE)],
    "terminal": [_member("\x1b]0;own\x07vmlinux-6.1", data=VMLINUX)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_leaves_the_cache(bench: Bench, tmp_path: Path, name: str) -> None:
    """The file of a name is used or not, and then it is a plain file of our own name and place."""
    (tmp_path / "escaped").mkdir()
    package = tmp_path / "given.deb"
    package.write_bytes(_deb(*HOSTILE[name]))
    before = {path for path in tmp_path.rglob("*") if bench.cache not in path.parents}
    try:
        added = add(package, cache=bench.cache)
    except DebuginfoError:
        added = ()
    assert {path for path in tmp_path.rglob("*") if bench.cache not in path.parents} - before <= {bench.cache}
    assert not (Path("/escaped").exists())
    for entry in added:
        (made,) = (path for path in entry.directory.iterdir() if path.name == "vmlinux")
        assert made.is_file()
        assert not made.is_symlink()
        assert made.read_bytes().startswith(b"\x7fELF")
    files = [path for path in bench.cache.rglob("*") if not path.is_dir()]
    assert all(path.is_file() and not path.is_symlink() for path in files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xz", "gz"])
def test_bomb(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A few kilobytes that would be far more: refused where there is no room, and no trace."""
    huge = 8 << 20
    package = tmp_path / "bomb.deb"
    package.write_bytes(_deb(_member(archives.PATH, data=bytes(huge)), kind=kind))
    assert package.stat().st_size < huge // 100
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=huge // 2))
    with pytest.raises(NoSpace):
        add(package, cache=bench.cache)
    assert not [
        path for path in bench.cache.rglob("*") if path.is_file() and path.stat().st_size and path.name != CACHE_TAG
    ]


def test_members_that_lie_about_their_size(bench: Bench, tmp_path: Path) -> None:
    """More than there is: the package is cut off; less: what follows is no header."""
    whole = _deb(_member(archives.PATH, data=VMLINUX))
    for number, cut in enumerate((len(whole) // 2, 200, 68, 10)):
        package = tmp_path / f"{number}.deb"
        package.write_bytes(whole[:cut])
        with pytest.raises(VmboxError):
            add(package, cache=bench.cache)

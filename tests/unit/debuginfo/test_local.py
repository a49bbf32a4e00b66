"""Debuginfo of other kernels, in a cache below the directory that is looked in, is not taken for that of a dump."""

from __future__ import annotations

from pathlib import Path

from sandbox.debuginfo import local
from sandbox.host import paths


def test_a_cache_below_is_passed_over(tmp_path: Path) -> None:
    cache = tmp_path / "work" / "cache"
    for place in (cache / "debuginfo" / "0123" / "modules", tmp_path / "lib"):
        paths.make_directory(place, cache)
        (place / "ext4.ko").write_bytes(b"\x7fELF")
        (place / "vmlinux").write_bytes(b"\x7fELF")
    assert (cache / paths.CACHE_TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")
    assert list(local.modules(tmp_path)) == [tmp_path / "lib" / "ext4.ko"]
    assert list(local.candidates(tmp_path, None)) == [tmp_path / "lib" / "vmlinux"]
    # Named, it is looked into.
    assert len(list(local.candidates(cache, None))) == 1
    # A cache that may not be written is used without.
    (cache / paths.CACHE_TAG).unlink()
    cache.chmod(0o500)
    paths.make_directory(cache / "debuginfo", cache)

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import archives
from archives import Archive
from debuginfo_bench import Bench
from sandbox.debuginfo import download


@pytest.fixture(scope="session")
def small_package() -> bytes:
    return archives.deb({archives.PATH: archives.vmlinux()})


@pytest.fixture(autouse=True, scope="session")
def power_that_lasts() -> Iterator[None]:
    """What the cache would lose without power is not tested here, and a busy disk makes each of these calls wait."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def bench(tmp_path: Path, small_package: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    with archives.serve(Archive(files={})) as archive:
        bench = Bench(directory=tmp_path, archive=archive, package=b"")
        bench.put(small_package)
        yield bench


@pytest.fixture
def make_vmlinux(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "vmlinux", **how: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archives.vmlinux(**how))  # type: ignore[arg-type]
        return path

    return make

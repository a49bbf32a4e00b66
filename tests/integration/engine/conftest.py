"""A base image with only Debian's static busybox: no registry, no network."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import EngineUnderTest
from sandbox.engine import Engine

BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rootfs") / "rootfs.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "run", "root", "case", "work"):
            _add(tar, name, type=tarfile.DIRTYPE)
        _add(tar, "tmp", type=tarfile.DIRTYPE, mode=0o1777)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes())
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            if applet != "busybox":
                _add(tar, f"bin/{applet}", type=tarfile.SYMTYPE, linkname="busybox")
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
    return path


def _add(tar: tarfile.TarFile, name: str, content: bytes = b"", **attributes: object) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o755, len(content)
    for key, value in attributes.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="session")
def base(engine: EngineUnderTest, rootfs: Path) -> Iterator[str]:
    """Reference of the base image on this engine."""
    ref = "localhost/vmbox/test-base:1"
    for left in engine.engine.images({"vmbox.test": ""}):  # of a run that was killed
        engine.engine.remove_image(left.id)
    engine.engine.import_rootfs(rootfs, ref, {"vmbox.test": "base", "vmbox.quoted": 'a "b" $c'})
    yield ref
    engine.engine.remove_image(ref)


@pytest.fixture
def api(engine: EngineUnderTest) -> Iterator[Engine]:
    """The engine; a test that leaves a container behind fails."""
    yield engine.engine
    left = engine.engine.containers({"vmbox.test": ""})
    for container in left:
        engine.engine.remove(container.id)
    assert left == []

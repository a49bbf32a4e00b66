"""The newest crash in place of a major's own: one that is too old for the dump, and one whose image cannot be had."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import engines
from e2e.conftest import Dumps
from engines import EngineUnderTest

Vmbox = Callable[..., subprocess.CompletedProcess[bytes]]


def _profile(name: str) -> str:
    return (engines.CHECKOUT / "images" / name).read_text()


@pytest.fixture
def vmbox(docker_engine: EngineUnderTest, tmp_path: Path) -> Vmbox:
    """vmbox with profiles of the user's own, for a dump of Debian 12."""

    def run(*arguments: object, debian_12: str) -> subprocess.CompletedProcess[bytes]:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / "debian-12.toml").write_text(debian_12)
        env = {**docker_engine.env, "VMBOX_CONFIG_DIR": str(tmp_path)}
        command = [*docker_engine.vmbox, *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False)

    return run


def _opened(vmbox: Vmbox, docker_engine: EngineUnderTest, dump: Path, profile: str) -> tuple[str, dict[str, str]]:
    """What vmbox said about opening `dump` with its debian-12 being `profile`; and the case."""
    docker_engine.run("close", str(dump))
    # The changed profile has another Debian's package sources.
    assert docker_engine.run("debuginfo", "fetch", str(dump)).returncode == 0
    try:
        done = vmbox("run", dump, "--", "bt", debian_12=profile)
        assert done.returncode == 0, done.stderr.decode()
        assert b"sysrq_handle_crash" in done.stdout
        (case,) = (one for one in json.loads(docker_engine.run("list", "--json").stdout) if one["dump"] == str(dump))
    finally:
        docker_engine.run("close", str(dump))
    return done.stderr.decode(), case


def test_a_crash_that_does_not_open_the_dump(docker_engine: EngineUnderTest, dumps: Dumps, vmbox: Vmbox) -> None:
    # Debian 11's crash is older than 6.1, and a profile says that it is not.
    assert docker_engine.run("image", "build", "debian-11").returncode == 0
    older, own = _profile("debian-11.toml"), _profile("debian-12.toml")
    text = re.sub(
        r"(?s)\n\[base\].*?(?=\n\[image\])", '\n[base]\nimages = ["localhost/vmbox/base-debian-11:bullseye"]\n', own
    )
    text = re.sub(r"(?s)\n\[image\].*?(?=\n\[crash\])", re.search(r"(?s)\n\[image\].*?(?=\n\[crash\])", older)[0], text)
    text = re.sub(r"(?m)^max_kernel.*$", "", text).replace('"drgn-wheel", ', "")
    said, case = _opened(vmbox, docker_engine, dumps(), text)
    assert "crash cannot open the dump: " in said
    assert "trying drgn\n" in said
    assert "image debian-12 has no drgn: the dump is opened in that of latest" in said
    assert "drgn answers: crash cannot open the dump: " in said
    assert case["profile"] == "latest"


def test_an_image_that_cannot_be_had(docker_engine: EngineUnderTest, dumps: Dumps, vmbox: Vmbox) -> None:
    text = re.sub(r"(?m)^max_kernel.*$", "", _profile("debian-12.toml"))
    # A registry and an archive that are not there.
    text = re.sub(r"(?s)\n\[base\].*?(?=\n\[image\])", '\n[base]\nimages = ["127.0.0.1:9/debian:12"]\n', text)
    said, case = _opened(vmbox, docker_engine, dumps(), text.replace("bookworm main", "bookworm main contrib"))
    assert "no base image for Debian 12 (bookworm) is available" in said
    assert "latest with crash 9.0.2 is used in place of debian-12" in said
    assert case["profile"] == "latest"

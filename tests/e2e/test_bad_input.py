"""What a user gets who gives the wrong thing, or who lacks one: a line, a hint, a status of its own, no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.conftest import Dumps
from engines import ENTRY, EngineUnderTest

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the discard port."""


def _said(done: subprocess.CompletedProcess[bytes], status: int) -> str:
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert "Traceback" not in said
    assert re.search(r"(?m)^vmbox: .+\n(    .*\n)*hint: \S", said), said
    return said


WRONG = {
    "absent": (None, 10, "there is no file"),
    "empty": (b"", 12, "is empty"),
    "photo.jpg": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(4096), 12, "JPEG"),
    "vmlinux": (b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0\1" + bytes(200), 12, "not a crash dump"),
    "directory": ("mkdir", 12, "holds no kernel crash dump"),
    "letter.txt": (b"Dear support,\nour machine died.\n", 12, "no kernel log"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", [("info",), ("run", "--", "bt"), ("shell",)], ids=lambda command: command[0])
def test_not_a_dump(docker_engine: EngineUnderTest, name: str, command: tuple[str, ...]) -> None:
    content, status, says = WRONG[name]
    path = docker_engine.directory() / name
    if content == "mkdir":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert says in _said(docker_engine.run(command[0], str(path), *command[1:]), status)


def test_cut_dump(docker_engine: EngineUnderTest, dumps: Dumps) -> None:
    """Identified all the same; run says at once that it is the dump's fault, and what is lost."""
    whole = dumps()
    cut = docker_engine.directory() / "vmcore"
    with whole.open("rb") as source:
        cut.write_bytes(source.read(whole.stat().st_size // 8))
    info = json.loads(docker_engine.run("info", str(cut), "--json").stdout)
    assert info["complete"] is False
    assert info["incomplete_reason"]
    began = time.monotonic()
    done = docker_engine.run("run", str(cut), "--", "sys")
    assert time.monotonic() - began < 10
    said = done.stderr.decode()
    assert done.returncode == 13, said
    assert "is incomplete, and the kernel's own data is in what is lost" in said
    assert f"hint: it is of kernel {info['release']}" in said
    # Without its end: what is left answers.
    with whole.open("rb") as source:
        cut.write_bytes(source.read(whole.stat().st_size * 19 // 20))
    done = docker_engine.run("run", str(cut), "--", "bt")
    assert done.returncode == 0, done.stderr
    assert b"sysrq_handle_crash" in done.stdout
    assert b"drgn answers: the dump is cut off" in done.stderr
    docker_engine.run("close", "--all")


def test_kernel_nobody_knows(docker_engine: EngineUnderTest, dumps: Dumps) -> None:
    """A genuine dump with another release, of the same length, and another build-id wherever it has its own."""
    genuine = dumps(form="elf")
    info = json.loads(docker_engine.run("info", str(genuine), "--json").stdout)
    release, build_id = info["release"], info["build_id"]
    other = "7.99.1-strangekernel".ljust(len(release), "x")[: len(release)]
    content = genuine.read_bytes().replace(release.encode(), other.encode())
    for own in (build_id.encode(), bytes.fromhex(build_id)):
        content = content.replace(own, own[::-1])
    copy = docker_engine.directory() / "vmcore"
    copy.write_bytes(content)
    assert json.loads(docker_engine.run("info", str(copy), "--json").stdout)["class"] in {"vanilla", "unknown"}
    # It is read without debuginfo. Its ORC is of another version than its release says: drgn unwinds by what it is not.
    done = docker_engine.run("run", str(copy), "--", "bt")
    assert "--debuginfo" in _said(done, 0)
    assert b"sysrq_handle_crash" in done.stdout
    assert b"bt: the frames below are not known: " in done.stdout
    assert "--debuginfo" in _said(docker_engine.run("run", str(copy), "--with", "crash", "--", "bt"), 40)


@pytest.fixture
def poor(docker_engine: EngineUnderTest) -> dict[str, str]:
    """An environment with no engine, no cache and nothing running."""
    place = docker_engine.directory()
    kept = {name: value for name, value in docker_engine.env.items() if not name.startswith(("VMBOX_", "XDG_"))}
    return {
        **kept,
        "HOME": str(place),
        "XDG_RUNTIME_DIR": str(place),
        "VMBOX_CACHE_DIR": str(place / "cache"),
        "VMBOX_RUNTIME_DIR": str(place / "run"),
        "VMBOX_CONFIG_DIR": str(place / "config"),
    }


def _vmbox(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", ENTRY, *arguments]
    return subprocess.run(command, env=env, capture_output=True, check=False, timeout=120, stdin=subprocess.DEVNULL)


def test_no_engine(poor: dict[str, str], dumps: Dumps) -> None:
    bare = poor | {"PATH": "/nonexistent", "VMBOX_ENGINE": f"unix://{poor['HOME']}/no.sock"}
    assert "no.sock" in _said(_vmbox(bare, "run", str(dumps()), "--", "bt"), 20)


def test_engine_that_may_not_be_used(podman_rootful: EngineUnderTest, podman_rootless: EngineUnderTest) -> None:
    """root's socket, to an ordinary user."""
    socket = Path(podman_rootful.url.removeprefix("unix://"))
    if podman_rootless.uid == os.getuid():
        pytest.skip("all engines belong to one user here")
    env = {**podman_rootless.env, "VMBOX_ENGINE": podman_rootful.url}
    before = socket.parent.stat().st_mode
    socket.parent.chmod(0o711)
    try:
        done = subprocess.run([*podman_rootless.vmbox, "doctor"], env=env, capture_output=True, check=False)
        said = done.stdout.decode() + done.stderr.decode()
    finally:
        socket.parent.chmod(before)
    assert done.returncode == 1
    assert "permission" in said.lower()


def test_no_network(poor: dict[str, str], podman_rootful: EngineUnderTest, dumps: Dumps) -> None:
    """Neither registry nor package mirror answers, and no base is at hand: no other test wants this one."""
    mirrors = f"http://deb.debian.org={NOWHERE} docker.io=127.0.0.1:9"
    env = poor | {"VMBOX_ENGINE": podman_rootful.url, "VMBOX_MIRRORS": mirrors}
    said = _said(_vmbox(env, "run", str(dumps()), "--image", "debian-14", "--", "bt"), 30)
    assert "VMBOX_MIRRORS" in said


@pytest.fixture
def full_disk(docker_engine: EngineUnderTest) -> Iterator[Path]:
    """A cache directory on a file system of one megabyte."""
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    place = docker_engine.directory() / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0755", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_no_space(docker_engine: EngineUnderTest, dumps: Dumps, full_disk: Path) -> None:
    env = {**docker_engine.env, "VMBOX_CACHE_DIR": str(full_disk)}
    docker_engine.run("close", "--all")
    said = _said(_vmbox(env, "run", str(dumps()), "--", "bt"), 50)
    assert "VMBOX_CACHE_DIR" in said or "df -h" in said
    # Nothing half done is left there.
    assert [path.name for path in full_disk.rglob("*") if path.is_file() and path.stat().st_size] == ["CACHEDIR.TAG"]


def test_usage(docker_engine: EngineUnderTest, dumps: Dumps) -> None:
    assert docker_engine.run("run", str(dumps()), "--nonsense").returncode == 2
    assert docker_engine.run("nosuch").returncode == 2
    missing = docker_engine.run("run", str(dumps()), "-i", "/nonexistent/commands")
    assert missing.returncode == 2
    # At once: nothing was opened for it.
    assert missing.stderr.startswith(b"vmbox: /nonexistent/commands: No such file"), missing.stderr

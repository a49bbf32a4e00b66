"""A flattened dump is given to a case by a mount of its own, on each engine; no copy is made, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from archives import Archive, serve
from dump_servers import bucket
from e2e.conftest import wait_for
from engines import EngineUnderTest
from sandbox.engine import labels
from sandbox.remote.places import DESCRIBED

BY_DRGN = ("--with", "drgn", "--")
"""Up in a fifth of crash's time, where any reader of the view will do."""
QUESTIONS = ("bt", "--", "ps", "--", "kmem", "-i", "--", "log", "--", "mod")


@pytest.fixture(scope="module", autouse=True)
def _fuse() -> None:
    if not os.access("/dev/fuse", os.F_OK):
        os.mknod("/dev/fuse", 0o020666, os.makedev(10, 229))
    # As udev leaves it on every ordinary host.
    Path("/dev/fuse").chmod(0o666)


@pytest.fixture(scope="module")
def flattened(engine: EngineUnderTest, dumps) -> Path:
    return dumps.copy_for(engine, dumps.forms() / "flattened")


def _views(engine: EngineUnderTest) -> list[Path]:
    return [*Path(engine.env["VMBOX_RUNTIME_DIR"], "views").iterdir()]


def _server(engine: EngineUnderTest) -> int:
    (view,) = _views(engine)
    return int((view / "lock").read_text())


def test_the_answers_are_those_of_the_plain_dump(vmbox, engine: EngineUnderTest, dumps, flattened: Path) -> None:
    served = vmbox("run", flattened, *BY_DRGN, *QUESTIONS)
    assert b"copied" not in served.stderr
    copies = Path(engine.env["VMBOX_CACHE_DIR"], "dumps").glob("*/vmcore")
    # Processes with the other engines share the cache of this user.
    if engine.uid != os.getuid():
        assert not [copy for copy in copies if copy.parent.suffix != DESCRIBED]
    process = Path(f"/proc/{_server(engine)}")
    assert process.exists()
    plain = dumps.copy_for(engine, dumps.forms() / "kdump")
    assert served.stdout == vmbox("run", plain, *BY_DRGN, *QUESTIONS).stdout
    # The case has this one file of the mount, and can write nothing.
    seen = vmbox("run", flattened, *BY_DRGN, "!ls /case; echo x >>/case/vmcore")
    # Errors take a way of their own out of a debugger: they may come first.
    refused = [line for line in seen.stdout.splitlines() if line.endswith(b"ead-only file system")]
    assert len(refused) == 1, seen.stdout
    assert set(seen.stdout.splitlines()) - {*refused} == {b"debuginfo", b"vmcore"}, seen.stdout
    vmbox("close", "--all")
    assert not _views(engine)
    wait_for(lambda: not process.exists())
    assert engine.env["VMBOX_RUNTIME_DIR"] not in Path("/proc/self/mountinfo").read_text()


def test_a_killed_server_is_noticed_and_its_mount_removed(vmbox, engine: EngineUnderTest, flattened: Path) -> None:
    expected = vmbox("run", flattened, *BY_DRGN, "bt").stdout
    os.kill(_server(engine), signal.SIGKILL)
    again = vmbox("run", flattened, *BY_DRGN, "bt")
    assert again.stdout == expected
    assert len(_views(engine)) == 1
    assert vmbox("doctor", "--leaks", "--engine", engine.url).returncode == 0
    vmbox("close", "--all")


def test_a_killed_case_takes_its_mount_with_it(vmbox, engine: EngineUnderTest, flattened: Path) -> None:
    vmbox("run", flattened, *BY_DRGN, "bt")
    process = Path(f"/proc/{_server(engine)}")
    (container,) = engine.engine.containers({labels.CASE: ""})
    engine.signal(container.id, "KILL")
    wait_for(lambda: not process.exists())
    vmbox("list")
    assert not _views(engine)


def test_a_dump_on_a_web_server(podman_rootless: EngineUnderTest, dumps) -> None:
    content = dumps().read_bytes()
    plain = podman_rootless.run("run", str(dumps.copy_for(podman_rootless, dumps())), "--", *QUESTIONS)
    assert plain.returncode == 0, plain.stderr
    with serve(Archive(files={"/vmcore": content}, headers={"ETag": '"1"'})) as site:
        url = f"{site.url}/vmcore?X-Signature=SECRET"
        told = podman_rootless.run("info", url)
        assert b"sysrq" in told.stdout, told.stderr
        assert site.sent < len(content) / 4
        remote = podman_rootless.run("run", url, "--", *QUESTIONS)
        assert remote.stdout == plain.stdout, remote.stderr
        report = podman_rootless.run("report", "--json", url)
        made = json.loads(report.stdout)
        assert (made["problem"], made["identity"]["dump"]) == (None, f"{site.url}/vmcore?X-Signature=***"), (
            report.stderr
        )
        assert made["backtrace"]["frames"]
        assert b"SECRET" not in report.stdout + report.stderr
        # As `vmbox run` without a network has to: lo is all that the case has.
        seen = podman_rootless.run("run", url, "--", "!ls /sys/class/net")
        assert seen.stdout.split() == [b"lo"]
        places = [Path(podman_rootless.env[f"VMBOX_{name}_DIR"]) for name in ("STATE", "RUNTIME")]
        known = [one for place in places for one in place.rglob("*") if one.is_file()]
        assert known
        assert not [one for one in known if b"SECRET" in one.read_bytes()]
        assert b"SECRET" not in told.stdout + told.stderr + remote.stderr
    podman_rootless.run("close", "--all")
    assert not _views(podman_rootless)


def test_a_dump_in_a_bucket_and_no_credentials_in_the_case(
    vmbox, engine: EngineUnderTest, dumps, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bucket() as store:
        url = store.put("crashes/vmcore", dumps().read_bytes())
        for name, value in {
            "AWS_ENDPOINT_URL": store.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIATESTS",
            "AWS_SECRET_ACCESS_KEY": "SECRET",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setitem(engine.env, name, value)  # type: ignore[arg-type]
        remote = vmbox("run", url, *BY_DRGN, *QUESTIONS)
        assert remote.stdout == vmbox("run", dumps.copy_for(engine, dumps()), *BY_DRGN, *QUESTIONS).stdout
        seen = vmbox(
            "run",
            url,
            *BY_DRGN,
            "!cat /proc/[0-9]*/environ | tr '\\0' '\\n'; cat /proc/[0-9]*/cmdline /proc/mounts /proc/net/dev",
        )
        assert b"IDLE=" in seen.stdout
        for word in (b"SECRET", b"AKIATESTS", b"AWS_", b"eth0"):
            assert word not in seen.stdout
        # The log was read there as well.
        assert b"AGREES WITH" in remote.stderr, remote.stderr
    vmbox("close", "--all")
    assert not _views(engine)

"""Dumps on another host: its engine behind sshd in a network namespace, and a vmbox that does not see its files."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from e2e.conftest import BY_DRGN, Dumps
from engines import ENTRY, EngineUnderTest, cache_root
from remotes import Sshd, docker_behind_tls, sshd
from sandbox.engine import connect, labels

_BLIND = 'mount -t tmpfs none "$0" && exec "$@"'


@dataclass
class There:
    """An engine of another host, with a dump of that host; and vmbox on a host of its own."""

    engine: EngineUnderTest
    server: Sshd
    dump: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.env["VMBOX_ENGINE"]

    def command(self, *arguments: str) -> list[str]:
        """vmbox in a mount namespace where the place of the dump is empty."""
        root = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
        return [*root, "sh", "-c", _BLIND, str(self.dump.parent), sys.executable, "-c", ENTRY, *arguments]

    def vmbox(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(self.command(*arguments), env=self.env, capture_output=True, check=False, timeout=600)
        assert done.returncode == status, (arguments, done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        assert b"Traceback" not in done.stderr
        return done


@pytest.fixture(scope="module")
def there(podman_rootless: EngineUnderTest, dumps: Dumps, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    dump = dumps.copy_for(podman_rootless, dumps())
    place = tmp_path_factory.mktemp("here")
    with sshd(podman_rootless, podman_rootless.directory()) as server:
        path = podman_rootless.url.removeprefix("unix://")
        env = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
        env |= {
            "PATH": f"{server.directory}/bin:{os.environ['PATH']}",
            "HOME": str(place),
            "LC_ALL": "C.UTF-8",
            "VMBOX_ENGINE": f"ssh://{server.target}{path}",
            "VMBOX_CONFIG_DIR": str(place / "config"),
            "VMBOX_RUNTIME_DIR": str(place / "run"),
            "VMBOX_STATE_DIR": str(place / "state"),
            "VMBOX_CACHE_DIR": str(cache_root() / "caller"),
        }
        found = There(engine=podman_rootless, server=server, dump=dump, env=env)
        yield found
        if server.process is not None:
            found.vmbox("close", "--all")
        # Else other tests would find it, where they expect to fetch.
        for image in podman_rootless.engine.images({labels.IMAGE: labels.KERNEL_IMAGE}):
            podman_rootless.engine.remove_image(image.id)


def test_opened_there_and_asked_from_here(there: There) -> None:
    before = (there.dump.stat().st_mtime_ns, there.dump.stat().st_mode, there.dump.stat().st_size)
    info = json.loads(there.vmbox("info", "--json", "--engine", there.url, str(there.dump)).stdout)
    assert info["cause"] == "sysrq"
    first = there.vmbox("run", str(there.dump), "--", "bt", "--", "p 1+1")
    assert b"sysrq_handle_crash" in first.stdout
    assert first.stdout.endswith(b"= 2\n")
    assert b"Reading " in first.stderr
    again = there.vmbox("run", str(there.dump), "--", "p 1+1")
    assert again.stdout.endswith(b"= 2\n")
    assert b"Building" not in again.stderr
    (case,) = json.loads(there.vmbox("list", "--json").stdout)
    assert case["dump"] == str(there.dump)
    # Nothing but the dump is of that host, and it is read only.
    mounts = there.vmbox("run", str(there.dump), "--", "!grep -E ' /(case|run/vmbox|scratch)' /proc/mounts").stdout
    points = {line.split()[1]: line.split() for line in mounts.decode().splitlines()}
    assert points["/case/vmcore"][3].startswith("ro")
    assert points["/run/vmbox"][2] == "tmpfs"
    assert "/case/debuginfo" not in points
    after = (there.dump.stat().st_mtime_ns, there.dump.stat().st_mode, there.dump.stat().st_size)
    assert after == before


def test_errors_and_interrupts(there: There) -> None:
    assert there.vmbox("run", str(there.dump), "--", "nonsense", status=1).stdout
    late = there.vmbox("run", str(there.dump), "--timeout", "2", "--", "!sleep 60", status=62)
    assert b"stopped" in late.stderr
    assert there.vmbox("run", str(there.dump), "--", "p 1+1").stdout.endswith(b"= 2\n")
    gone = there.vmbox("run", "/var/crash/none/vmcore", "--", "bt", status=10)
    assert b"there is no file" in gone.stderr
    relative = there.vmbox("run", "vmcore", "--", "bt", status=10)
    assert b"path from the root" in relative.stderr


def test_a_script_of_here(there: There) -> None:
    done = there.vmbox("run", str(there.dump), "--tool", "drgn", "-e", "print(prog['init_task'].pid.value_())")
    assert done.stdout.strip() == b"0"


def test_behind_tls(docker_engine: EngineUnderTest, dumps: Dumps, tmp_path: Path) -> None:
    """The same by Docker's other way, where a stream that is closed in one direction is a matter of TLS."""
    dump = dumps.copy_for(docker_engine, dumps())
    image = docker_engine.run("image", "build", "latest").stdout.decode().strip()
    with docker_behind_tls(tmp_path) as behind:
        (tmp_path / "image.tar").write_bytes(b"".join(docker_engine.engine.save(image)))
        with contextlib.closing(connect(behind.socket)) as engine:
            engine.load(tmp_path / "image.tar")
        env = {**docker_engine.env, **behind.env(), "VMBOX_ENGINE": behind.url}

        def vmbox(*arguments: str) -> bytes:
            command = [*docker_engine.vmbox, *arguments]
            done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=600)
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert b"sysrq_handle_crash" in vmbox("run", str(dump), *BY_DRGN)
        assert b"init_task" in vmbox("run", str(dump), "--with", "drgn", "--", "p init_task.comm")
        script = ("--tool", "drgn", "-e", "print(prog['init_task'].pid.value_())")
        assert vmbox("run", str(dump), *script).strip() == b"0"
        vmbox("close", str(dump))
        with contextlib.closing(connect(behind.socket)) as engine:
            assert engine.containers({labels.CASE: ""}) == []


def test_a_lost_connection_loses_no_case(there: There, tmp_path: Path) -> None:
    there.vmbox("run", str(there.dump), "--", "p 1+1")
    (case,) = json.loads(there.vmbox("list", "--json").stdout)
    command = there.command("run", str(there.dump), "--", "!while sleep 0.2; do echo on; done")
    with subprocess.Popen(command, env=there.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        assert busy.stdout.readline() == b"on\n"
        there.server.cut()
        _, said = busy.communicate(timeout=60)
    assert busy.returncode == 22, said
    assert b"was lost" in said
    # Not given up while its host cannot be reached, neither by looking nor by a command.
    assert json.loads(there.vmbox("list", "--json").stdout)[0]["id"] == case["id"]
    down = there.vmbox("run", str(there.dump), "--", "p 1", status=22)
    assert b"Traceback" not in down.stderr
    there.vmbox("close", "--all", status=22)
    assert len(json.loads(there.vmbox("list", "--json").stdout)) == 1
    there.server.start()
    back = there.vmbox("run", str(there.dump), "--", "p 1+1")
    assert back.stdout.endswith(b"= 2\n")
    assert b"Building" not in back.stderr
    (same,) = json.loads(there.vmbox("list", "--json").stdout)
    assert same["container"] == case["container"]
    # Whoever looks for leaks on that host leaves it alone: only here is known that it is in use.
    looked = there.engine.run("doctor", "--leaks", "--engine", there.engine.url)
    assert case["container"][:12].encode() not in looked.stdout
    there.vmbox("close", str(there.dump))
    assert there.engine.engine.containers({labels.CASE: ""}) == []
    assert there.vmbox("doctor", "--leaks", "--engine", there.url).returncode == 0

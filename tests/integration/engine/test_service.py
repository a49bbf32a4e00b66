"""The private Podman service: started if there is no socket, and ended with vmbox in whatever way vmbox ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines import CHECKOUT, EngineUnderTest, cache_root
from sandbox.engine import connect
from sandbox.errors import ConfigurationError, EngineFailed, EngineNotFound, EnginePermission

# Connects in a process of its own: starts a container when told to, says what it made, then waits to be ended.
CLIENT = """
import sys, time
from pathlib import Path
from sandbox.engine import ContainerSpec, connect
engine = connect("podman")
if len(sys.argv) > 1:
    ref = "localhost/vmbox/test-service:1"
    engine.import_rootfs(Path(sys.argv[1]), ref, {})
    spec = ContainerSpec(image=ref, argv=["/bin/sleep", sys.argv[2]], labels={"vmbox.test": "service"})
    print(engine.start(spec).id, flush=True)
print(engine.info().endpoint, engine._service.socket, engine._service._process.pid, flush=True)
if sys.stdin.read() == "close":
    engine.close()
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Without any engine's address. State and run-time directories of its own."""
    env = {key: value for key, value in os.environ.items() if key not in {"DOCKER_HOST", "CONTAINER_HOST"}}
    env |= {"PYTHONPATH": str(CHECKOUT), "VMBOX_STATE_DIR": str(tmp_path / "state")}
    # Not below tmp_path: Podman's clean-up of a container reads its configuration after the test.
    env["VMBOX_RUNTIME_DIR"] = str(cache_root() / "service")
    return env


def client(env: dict[str, str], *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )


def gone(socket: Path, pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            podman = b"podman" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            podman = False
        if not podman and not socket.exists():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.engine
@pytest.mark.parametrize("end", ["close", "exit", "kill", "interrupt"])
def test_service_ends_with_its_client(env: dict[str, str], end: str) -> None:
    process = client(env)
    endpoint, socket, pid = process.stdout.readline().split()
    assert endpoint == "podman"
    assert Path(socket).is_socket()
    match end:
        case "close":
            process.communicate("close", timeout=30)
        case "exit":
            process.communicate("", timeout=30)
        case "kill":
            process.kill()
            process.wait()
        case _:
            process.send_signal(signal.SIGINT)
            process.wait()
    assert gone(Path(socket), int(pid), 10)


@pytest.mark.engine
@pytest.mark.parametrize(("lifetime", "left"), [("600", True), ("2", False)])
def test_containers_outlive_the_service(env: dict[str, str], rootfs: Path, lifetime: str, left: bool) -> None:
    """A warm case stays. A container that ends by itself is removed although the service has ended."""
    process = client(env, str(rootfs), lifetime)
    ident = process.stdout.readline().strip()
    _, socket, pid = process.stdout.readline().split()
    process.kill()
    process.wait()
    assert gone(Path(socket), int(pid), 10)
    time.sleep(4)
    look = "import sys; from sandbox.engine import connect; e = connect('podman'); c = e.container(sys.argv[1]); "
    look += (
        "print(c is not None and c.running); e.remove(sys.argv[1]); e.remove_image('localhost/vmbox/test-service:1')"
    )
    found = subprocess.run([sys.executable, "-c", look, ident], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(left)


def test_rootless_service_of_its_own(podman_rootless: EngineUnderTest) -> None:
    """For a user whose Podman has no socket and would copy layers, overlay is used, and no service stays."""
    script = "from sandbox.engine import connect; e = connect('podman'); "
    script += "print(e.info().rootless, e.uses_vfs()); e.close()"
    ran = as_engine_user(podman_rootless, script)
    assert ran.stdout.split() == ["True", "False"], ran.stderr
    deadline = time.monotonic() + 20
    while left := services_below(podman_rootless.base / "runtime"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def as_engine_user(under_test: EngineUnderTest, script: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run Python as the engine's user, without the address of the engine."""
    command = [*under_test.vmbox[: under_test.vmbox.index("-c")], "-c", script, *args]
    env = {key: value for key, value in under_test.env.items() if key != "VMBOX_ENGINE"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd="/")


def services_below(directory: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"unix://{directory}/".encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found


def test_no_engine_listens(tmp_path: Path) -> None:
    with pytest.raises(EngineNotFound, match="no engine answers") as caught:
        connect(f"unix://{tmp_path}/none.sock")
    assert caught.value.hint


def test_not_an_engine() -> None:
    with pytest.raises(ConfigurationError):
        connect("lxc")
    with pytest.raises(ConfigurationError):
        connect("ftp://host")


def test_another_server_listens(tmp_path: Path) -> None:
    import socket
    import threading

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def answer() -> None:
            peer, _ = server.accept()
            peer.recv(1000)
            peer.sendall(b"SSH-2.0-x\r\n")
            peer.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(EngineFailed, match="not an engine's socket"):
            connect(f"unix://{tmp_path}/s")


def test_engine_variable(docker_engine: EngineUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_ENGINE", docker_engine.url)
    engine = connect()
    assert engine.info().name == "docker"
    engine.close()
    monkeypatch.delenv("VMBOX_ENGINE")
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    for name in (None, "docker"):
        engine = connect(name)
        assert engine.info().endpoint == docker_engine.url
        engine.close()


def test_no_permission(docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest) -> None:
    """Here Docker's socket is root's, and the user of rootless Podman has no permission."""
    if docker_engine.uid == podman_rootless.uid:
        pytest.fail("needs two users") if os.getuid() == 0 else pytest.skip("both engines belong to one user")
    script = (
        "import sys\nfrom sandbox.engine import connect\nfrom sandbox.errors import EnginePermission\n"
        "try:\n connect(sys.argv[1])\nexcept EnginePermission as e:\n print(e.message); print(e.hint)"
    )
    ran = as_engine_user(podman_rootless, script, docker_engine.url)
    assert "no permission" in ran.stdout
    assert "usermod -aG docker" in ran.stdout
    assert EnginePermission.exit_code == 21


def test_import_loads_no_engine_library() -> None:
    script = "import sys, sandbox.engine.detection; print({'docker', 'podman', 'requests'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert ran.stdout.strip() == "set()"

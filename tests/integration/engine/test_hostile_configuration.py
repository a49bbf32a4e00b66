"""Engines whose own configuration takes the isolation away: a case is as isolated as without it, or refused.

What is looked at, and how, is that of tests/e2e/test_isolation.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import engines
from e2e.test_isolation import CHECKS, QUESTIONS, put_programs, system_calls_are_filtered
from engines import CHECKOUT, EngineUnderTest, cache_root
from remotes import sshd
from sandbox.case.container_spec import container_spec, limits
from sandbox.engine import ContainerSpec, Engine, connect, created, podman_created, podman_elsewhere, podman_spec
from sandbox.engine.podman import PodmanEngine
from sandbox.errors import EngineFailed

REF = "localhost/vmbox/test-hostile:1"
NAMED_AWAY = """
pidns = "host"
ipcns = "host"
utsns = "host"
userns = "host"
cgroupns = "host"
netns = "host"
seccomp_profile = "unconfined"
env = ["HOST_SECRET=hunter2", "LD_PRELOAD=/mnt/evil.so"]
env_host = true
http_proxy = true
init = true
keyring = false
label = false
privileged = true
read_only = false
no_new_privileges = false
apparmor_profile = "unconfined"
cgroups = "disabled"
umask = "0000"
default_capabilities = ["SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"]
default_sysctls = ["net.ipv4.ping_group_range=0 0"]
default_ulimits = ["core=0:0"]
"""
"""Lines of [containers] that a request can name away, or that do no harm."""
REFUSED = {
    'volumes = ["/usr/share:/mnt:ro"]': "/mnt, /run/stranger",
    'devices = ["/dev/zero:/dev/stranger:r"]': "/dev/stranger",
    'annotations = ["run.oci.hooks.stdout=/tmp/x"]': "run.oci.hooks.stdout",
}
"""Those that it cannot, and what is said of them."""
HOOK = {"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"always": True}, "stages": ["prestart"]}


NAMES = {
    "pidns": "(pid)",
    "ipcns": "(ipc)",
    "utsns": "(uts)",
    "seccomp_profile_path": "not filtered",
    "unsetenvall": "HOST_SECRET",
    "cap_drop": "SYS_ADMIN",
}
"""What of a request keeps them away, and what is said without it."""


_OTHERS = {"/etc/passwd", "/etc/group", "/etc/key"}
"""Podman makes the first two where the image does not know the user, as this one does not. vmbox covers the last."""


def _spec(engine: EngineUnderTest, image: str) -> ContainerSpec:
    directory = engine.directory()
    for name in ("vmcore", "debuginfo/vmlinux", "runtime/lock"):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.chown(path, engine.uid, engine.gid)
    put_programs(directory / "runtime")
    script = "\n".join(f"echo '@''@ {name}'; {command}" for name, command in QUESTIONS.items())
    case = container_spec(
        name="vmbox-hostile",
        image=image,
        files=[directory / "vmcore"],
        debuginfo=directory / "debuginfo",
        runtime=directory / "runtime",
        labels={"vmbox.test": "hostile"},
        env={"IDLE": "0"},
        limits=limits(engine.engine.info()),
    )
    parts = {name: getattr(case, name) for name in ContainerSpec.__slots__}
    return ContainerSpec(**parts | {"argv": ["sh", "-c", script], "name": None})


def _seen(engine: Engine, spec: ContainerSpec) -> dict[str, str]:
    parts = b"".join(engine.run(spec)).decode().split("@@ ")[1:]
    answers = {name: answer.strip() for name, answer in (part.split("\n", 1) for part in parts)}
    mounts = [line for line in answers["mounts"].splitlines() if line.split()[1] not in _OTHERS]
    return {**answers, "mounts": "\n".join(mounts), "engine limits": str(engine.info().limits)}


@contextmanager
def _started(start: Callable[..., Iterator[EngineUnderTest]], rootfs: Path, *more: str) -> Iterator[EngineUnderTest]:
    running = start(*more)
    engine = next(running)
    try:
        engine.engine.import_rootfs(rootfs, REF, {"vmbox.test": "base"})
        yield engine
        engine.engine.remove_image(REF)
    finally:
        running.close()


@pytest.mark.engine
@pytest.mark.parametrize("start", [engines.podman_rootful, engines.podman_rootless])
def test_podman_is_told_what_its_configuration_says_otherwise(
    start: Callable[..., Iterator[EngineUnderTest]], rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a service that is not vmbox's own, with subscriptions, as RHEL mounts them into every container."""
    tmp_path.chmod(0o755)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "key.pem").write_text("hunter2")
    conf = Path(f"/var/tmp/vmbox-mounts-{os.getpid()}.conf")
    conf.write_text(f"{tmp_path}/secrets:/run/secrets\n{tmp_path}/secrets/key.pem:/etc/key\n")
    monkeypatch.setattr(podman_spec, "_MOUNTS_CONF", (str(conf),))
    try:
        with _started(start, rootfs, NAMED_AWAY, "--default-mounts-file", str(conf)) as engine:
            spec = _spec(engine, REF)
            seen = _seen(engine.engine, spec)
            for check in CHECKS:
                check(seen)
            with monkeypatch.context() as patch:
                _make_foreign(engine, patch)
                seen = _seen(engine.engine, spec)
                for check in CHECKS:
                    check(seen)
            files = b"".join(
                engine.engine.run(
                    _with_script(spec, "ls -A /run/secrets; cat /etc/key; tr '\\0' '\\n' </proc/1/environ")
                )
            )
    finally:
        conf.unlink()
    assert b"key.pem" not in files
    assert b"hunter2" not in files
    assert b"LD_PRELOAD" not in files


def _make_foreign(engine: EngineUnderTest, patch: pytest.MonkeyPatch) -> None:
    """As a service of another host: its files are not read, and it cannot read ours."""
    engine.engine.info()
    patch.setattr(engine.engine, "_is_ours", False)
    patch.setattr(podman_created, "_read_here", lambda _: None)


def _with_script(spec: ContainerSpec, script: str) -> ContainerSpec:
    parts = {name: getattr(spec, name) for name in ContainerSpec.__slots__}
    return ContainerSpec(**parts | {"argv": ["sh", "-c", script]})


@pytest.mark.engine
@pytest.mark.parametrize("start", [engines.podman_rootful, engines.podman_rootless])
def test_podman_is_refused_where_it_cannot_be_told(
    start: Callable[..., Iterator[EngineUnderTest]], rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, each of which would be enough; also on a service whose files cannot be read."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "hook.json").write_text(json.dumps(HOOK))
        (place / "credentials").write_text("hunter2")
        (place / "mounts.conf").write_text(f"{place}/credentials:/run/stranger\n")
        more = ["--hooks-dir", str(place), "--default-mounts-file", str(place / "mounts.conf")]
        with _started(start, rootfs, "\n".join(REFUSED), *more) as engine:
            _is_refused(engine, "/mnt, /run/stranger")
            expected = [*REFUSED.values(), "/bin/true"]
            found = _deviations(engine)
            assert [said for said in expected if said not in found] == []
            _make_foreign(engine, monkeypatch)
            found = _deviations(engine)
            assert [said for said in expected if said not in found] == []
            _is_refused(engine, "/mnt, /run/stranger")


@pytest.mark.engine
@pytest.mark.parametrize("start", [engines.podman_rootful, engines.podman_rootless])
@pytest.mark.parametrize("foreign", [False, True])
def test_podman_is_refused_where_it_is_not_told(
    start: Callable[..., Iterator[EngineUnderTest]], rootfs: Path, foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _started(start, rootfs, NAMED_AWAY) as engine:
        if foreign:
            _make_foreign(engine, monkeypatch)
        for name, said in NAMES.items():
            if name == "ipcns" and start is engines.podman_rootless and not Path("/dev/mqueue").exists():
                continue  # rootless Podman can then not make such a container
            with _without(name):
                _is_refused(engine, said)


def _deviations(engine: EngineUnderTest) -> str:
    """All that a container has more than was asked for, of which the refusal names the first."""
    found: list[str] = []

    def note(made: created.Created, spec: ContainerSpec, **more: Any) -> None:
        some = created._deviations(made, spec, more["image_environment"], limits=more["limits"])
        found.extend(said for _, said in some)
        raise EngineFailed("noted", hint="")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(created, "refuse_unless_as_asked", note)
        with pytest.raises(EngineFailed, match="noted"):
            engine.engine.start(_spec(engine, REF))
    return "\n".join(found)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Requests do not have the field `name`."""
    of = podman_spec.of

    def changed(*args: Any, **more: Any) -> dict[str, Any]:
        payload = of(*args, **more)
        del payload[name]
        return payload

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(podman_spec, "of", changed)
        yield


def _is_refused(engine: EngineUnderTest, said: str) -> None:
    with pytest.raises(EngineFailed, match="than it was asked to") as refused:
        engine.engine.start(_spec(engine, REF))
    assert said in refused.value.message
    assert "conf" in refused.value.hint or "daemon.json" in refused.value.hint
    assert engine.engine.containers({"vmbox.test": ""}) == []


CLIENT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from integration.engine import test_hostile_configuration as here
from sandbox.engine import connect
engine = connect("podman")
engine.import_rootfs(Path(sys.argv[2]), here.REF, {})
class Under:
    uid, gid = 0, 0
    directory = staticmethod(lambda: Path(sys.argv[3]))
Under.engine, Under.uid, Under.gid = engine, here.os.getuid(), here.os.getgid()
print(json.dumps(here._seen(engine, here._spec(Under, here.REF))))
engine.remove_image(here.REF)
engine.close()
"""


@pytest.mark.engine
def test_own_service_has_a_configuration_of_its_own(rootfs: Path, tmp_path: Path) -> None:
    """With all of it: what a request cannot name away does not reach the service that vmbox starts."""
    conf = tmp_path / "containers.conf"
    conf.write_text("\n".join(["[containers]", NAMED_AWAY, *REFUSED]))
    env = {key: value for key, value in os.environ.items() if key not in {"DOCKER_HOST", "CONTAINER_HOST"}}
    env |= {"PYTHONPATH": str(CHECKOUT), "VMBOX_STATE_DIR": str(tmp_path / "state")}
    env |= {"VMBOX_RUNTIME_DIR": str(cache_root() / "hostile")}
    env |= {"CONTAINERS_CONF": str(conf), "CONTAINERS_CONF_OVERRIDE": str(conf)}
    (tmp_path / "case").mkdir()
    words = [sys.executable, "-c", CLIENT, str(CHECKOUT / "tests"), str(rootfs), str(tmp_path / "case")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    for check in CHECKS:
        check(seen)


@pytest.mark.engine
def test_docker_is_told_or_refused(rootfs: Path, tmp_path: Path) -> None:
    settings = ["--default-ulimit", "core=0:0", "--default-ulimit", "rtprio=9:9", "--default-ipc-mode", "shareable"]
    settings += ["--init", "--default-shm-size", "1g", "--default-cgroupns-mode", "host"]
    settings += ["--add-runtime", "stranger=/bin/false", "--default-runtime", "stranger"]
    with _started(engines.docker, rootfs, *settings) as engine:
        seen = _seen(engine.engine, _spec(engine, REF))
        for check in CHECKS:
            check(seen)
    profile = tmp_path / "all.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    with _started(engines.docker, rootfs, "--seccomp-profile", str(profile)) as engine:
        if int(engine.engine.info().version.partition(".")[0]) >= 23:
            system_calls_are_filtered(_seen(engine.engine, _spec(engine, REF)))
        else:  # it has no name for its own profile
            _is_refused(engine, "system calls are not filtered")


@pytest.mark.engine
def test_docker_that_remaps_users_reads_the_files_of_the_host(rootfs: Path) -> None:
    """As the CIS benchmark has it, with an init and few open files for each container."""
    engines._test_user()
    more = (f"--userns-remap={engines.USER}", "--init", "--default-ulimit", "nofile=64:64")
    with _started(engines.docker, rootfs, *more) as engine:
        assert engine.engine.info().remaps_users
        spec = _spec(engine, REF)
        (source,) = (bind.source for bind in spec.binds if bind.target == "/case/vmcore")
        Path(source).write_text("of the host\n")
        Path(source).chmod(0o600)
        script = "cat /case/vmcore; ulimit -n; grep -h Cap /proc/self/status"
        said = b"".join(engine.engine.run(_with_script(spec, script))).decode().split()
    assert said[:4] == ["of", "the", "host", "64"]
    assert {word for word in said[4:] if not word.startswith("Cap")} == {"0" * 16}


@pytest.mark.engine
@pytest.mark.parametrize("left", ["nothing", "an empty volume", "a filter of another"])
def test_keyrings_are_refused_by_a_rootful_podman_of_another_host(
    podman_rootful: EngineUnderTest, rootfs: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """Its filter is kept in a volume there, whatever an earlier vmbox, or another client, left in it."""
    with sshd(podman_rootful, podman_rootful.directory()) as server:
        monkeypatch.setenv("PATH", f"{server.directory}/bin:{os.environ['PATH']}")
        url = f"ssh://{server.target}{podman_rootful.url.removeprefix('unix://')}"
        with contextlib.closing(connect(url)) as engine:
            assert isinstance(engine, PodmanEngine)
            assert not engine.info().local
            engine.import_rootfs(rootfs, REF, {"vmbox.test": "base"})
            volume = podman_elsewhere.volume_name(engine.info().version)
            try:
                if left != "nothing":
                    made = engine._call("POST", "/volumes/create", json_body={"Name": volume}).json()
                if left == "a filter of another":
                    shutil.copy("/usr/share/containers/seccomp.json", Path(made["Mountpoint"]) / "seccomp.json")
                spec = _spec(podman_rootful, REF)
                for created in (0, 1):
                    bodies = _creations(engine, monkeypatch)
                    seen = _seen(engine, spec)
                    for check in CHECKS:
                        check(seen)
                    assert created == 0 or len(bodies) == 2  # the case, and what reads its config.json
            finally:
                engine._call("DELETE", f"/volumes/{volume}", params={"force": True}).close()
                engine.remove_image(REF)


def _creations(engine: PodmanEngine, patch: pytest.MonkeyPatch) -> list[Any]:
    """The bodies of the requests to create a container, from now on."""
    bodies: list[Any] = []
    call = engine._call

    def noted(method: str, path: str, **more: Any) -> Any:
        if path == "/containers/create":
            bodies.append(more["json_body"])
        return call(method, path, **more)

    patch.setattr(engine, "_call", noted)
    return bodies

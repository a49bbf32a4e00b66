"""What crash in a case can see and do: looked at from inside and from outside, on each engine.

Every assertion is one function of `CHECKS`. Each holds in a real case, and each is shown to fail in a container that
differs from a case by exactly the setting it is about: `MUTATIONS` takes settings away from what the adapter sends to
its engine.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
import platform
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import BY_DRGN, Dumps
from engines import EngineUnderTest
from sandbox.case.container_spec import container_spec, limits
from sandbox.engine import Bind, ContainerSpec, created, labels
from sandbox.engine.docker import DockerEngine
from sandbox.errors import EngineFailed

QUESTIONS = {
    "status": "cat /proc/self/status",
    "interfaces": "tail -n +3 /proc/net/dev | cut -d: -f1",
    "routes": "tail -n +2 /proc/net/route",
    "mounts": "cat /proc/mounts",
    "environment": r"tr '\0' '\n' </proc/1/environ | cut -d= -f1",
    "arguments": r"tr '\0' ' ' </proc/1/cmdline",
    "devices": "ls /dev",
    "root": "(: >/etc/new) 2>/dev/null && echo writable || echo refused",
    # Opens for writing and writes nothing: the mutants must not harm what they are allowed to.
    "dump": "(: >>/case/vmcore) 2>/dev/null && echo writable || echo refused",
    "debuginfo": "(: >>/case/debuginfo/vmlinux) 2>/dev/null && echo writable || echo refused",
    "runtime": "(: >>/run/vmbox/lock) 2>/dev/null && echo writable || echo refused",
    "kcore": "for f in kcore keys timer_list sched_debug; do [ ! -f /proc/$f ] || echo $f; done",
    "processes": "ls -d /proc/[0-9]* | wc -l",
    "memory": "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null",
    "pids": "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max 2>/dev/null",
    "cpus": "cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null",
    "address space": "ulimit -v",
    "keyrings": "/run/vmbox/keyring; echo $?",
    "user namespace": "readlink /proc/self/ns/user",
    "sockets": "for f in $(find /run 2>/dev/null) $(cut -d' ' -f2 /proc/mounts); do [ ! -S $f ] || echo $f; done",
}

Seen = Mapping[str, str]

_ENVIRONMENT = {"PATH", "HOME", "TMPDIR", "LC_ALL", "LESSSECURE", "IDLE", "HOSTNAME", "container", "TERM"}
_ENVIRONMENT |= {"GLIBC_TUNABLES"}
_ENVIRONMENT |= {"DEBIAN_FRONTEND"}  # of the image
_DEVICES = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"}
_DEVICES |= {"stdout", "tty", "urandom", "zero"}
_OURS = {"/", "/case/vmcore", "/case/debuginfo", "/run/vmbox", "/tmp", "/scratch"}
_ENGINES = ("/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv")
_ENGINES += ("/run/secrets",)  # covered on Podman, so that it does not put any there


def _status(seen: Seen, name: str) -> str:
    lines = dict(line.split(":\t", 1) for line in seen["status"].splitlines() if ":\t" in line)
    return lines[name].strip()


def _options(seen: Seen) -> dict[str, set[str]]:
    return {fields[1]: set(fields[3].split(",")) for fields in map(str.split, seen["mounts"].splitlines())}


def no_capabilities(seen: Seen) -> None:
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {name: int(_status(seen, name), 16) for name in names} == dict.fromkeys(names, 0)


def no_new_privileges(seen: Seen) -> None:
    assert _status(seen, "NoNewPrivs") == "1"


def system_calls_are_filtered(seen: Seen) -> None:
    assert _status(seen, "Seccomp") == "2"


def keyrings_are_out_of_reach(seen: Seen) -> None:
    """Those of its user: they have Kerberos tickets, and are of a namespace only where its user is."""
    if platform.machine() != "x86_64":
        return  # the program that asks is for that
    if seen["user namespace"] != str(Path("/proc/self/ns/user").readlink()):
        return
    assert seen["keyrings"] in {str(errno.EPERM), str(errno.ENOSYS)}


def no_network_but_loopback(seen: Seen) -> None:
    assert seen["interfaces"].split() == ["lo"]
    assert seen["routes"] == ""


def root_is_read_only(seen: Seen) -> None:
    assert "ro" in _options(seen)["/"]
    assert seen["root"] == "refused"


def dump_is_read_only(seen: Seen) -> None:
    assert "ro" in _options(seen)["/case/vmcore"]
    assert seen["dump"] == "refused"


def debuginfo_is_read_only(seen: Seen) -> None:
    assert "ro" in _options(seen)["/case/debuginfo"]
    assert seen["debuginfo"] == "refused"


def runtime_directory_is_read_only(seen: Seen) -> None:
    assert "ro" in _options(seen)["/run/vmbox"]
    assert seen["runtime"] == "refused"


def scratch_cannot_be_executed(seen: Seen) -> None:
    assert all("noexec" in _options(seen)[place] for place in ("/tmp", "/scratch"))


def scratch_has_no_setuid(seen: Seen) -> None:
    assert all("nosuid" in _options(seen)[place] for place in ("/tmp", "/scratch"))


def scratch_has_no_devices(seen: Seen) -> None:
    assert all("nodev" in _options(seen)[place] for place in ("/tmp", "/scratch"))


def scratch_is_limited(seen: Seen) -> None:
    for place in ("/tmp", "/scratch"):
        sizes = [option for option in _options(seen)[place] if option.startswith("size=")]
        assert len(sizes) == 1
        assert int(sizes[0].removeprefix("size=").removesuffix("k")) * 1024 <= _host_memory() // 8


def nothing_else_is_mounted(seen: Seen) -> None:
    strangers = {place for place in _options(seen) if place not in _OURS and not place.startswith(_ENGINES)}
    assert strangers == set()


def environment_is_the_sessions_own(seen: Seen) -> None:
    assert set(seen["environment"].split()) <= _ENVIRONMENT


def only_harmless_devices(seen: Seen) -> None:
    assert set(seen["devices"].split()) <= _DEVICES


def no_live_kernel(seen: Seen) -> None:
    assert seen["kcore"] == ""  # not every kernel has kcore; what engines mask beside it is looked at too
    assert not {"mem", "kmem", "port", "crash"} & set(seen["devices"].split())


def other_processes_are_out_of_sight(seen: Seen) -> None:
    assert int(seen["processes"]) < 20


def no_socket_is_in_reach(seen: Seen) -> None:
    assert seen["sockets"] == ""


def memory_is_limited(seen: Seen) -> None:
    if seen["engine limits"] == "False":
        # Rootless on cgroup v1 has no limit for a container: each process has one.
        assert seen["address space"] != "unlimited"
        assert int(seen["address space"]) * 1024 <= _host_memory() * 3 // 4
    else:
        assert int(seen["memory"]) <= _host_memory() * 3 // 4


def processes_are_limited(seen: Seen) -> None:
    if seen["engine limits"] != "False":
        assert seen["pids"].isdigit()  # not "max"
        assert int(seen["pids"]) <= 512


def cpus_are_limited(seen: Seen) -> None:
    count = os.cpu_count() or 1
    quota = seen["cpus"].split()[0] if seen["cpus"] else "none"
    assert seen["engine limits"] == "False" or 0 < int(quota) <= max(1.0, count * 0.75) * 100_000


def keyring_program() -> bytes:
    """A program that asks for its user's keyring, keyctl(KEYCTL_GET_KEYRING_ID, -4, 1). Its status is the error."""
    code = bytes.fromhex(
        "b8fa000000 31ff 48c7c6fcffffff ba01000000 0f05"  # keyctl
        "31ff 85c0 7904 f7d8 89c7"  # edi = eax < 0 ? -eax : 0
        "b83c000000 0f05"  # exit
    )
    base = 0x400000
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = 120 + len(code)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


def put_programs(runtime: Path) -> None:
    """Into what is /run/vmbox in a case."""
    program = runtime / "keyring"
    program.write_bytes(keyring_program())
    program.chmod(0o755)


Check = Callable[[Seen], None]
Mutation = Callable[[dict[str, Any]], None]


def _host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _docker(**changes: object) -> Mutation:
    return lambda payload: payload["HostConfig"].update(changes)


def _podman(**changes: object) -> Mutation:
    return lambda payload: payload.update(changes)


def _docker_bind(target: str) -> Mutation:
    def mutate(payload: dict[str, Any]) -> None:
        next(one for one in payload["HostConfig"]["Mounts"] if one["Target"] == target)["ReadOnly"] = False

    return mutate


def _podman_bind(target: str) -> Mutation:
    def mutate(payload: dict[str, Any]) -> None:
        options = next(one for one in payload["mounts"] if one["destination"] == target)["options"]
        options[options.index("ro")] = "rw"

    return mutate


def _docker_tmpfs(before: str, after: str) -> Mutation:
    def mutate(payload: dict[str, Any]) -> None:
        tmpfs = payload["HostConfig"]["Tmpfs"]
        for target in tmpfs:
            options = [after if one.startswith(before) else one for one in tmpfs[target].split(",")]
            tmpfs[target] = ",".join(filter(None, options))

    return mutate


def _podman_tmpfs(before: str, after: str) -> Mutation:
    def mutate(payload: dict[str, Any]) -> None:
        for mount in payload["mounts"]:
            if mount["type"] == "tmpfs":
                options = [after if one.startswith(before) else one for one in mount["options"]]
                mount["options"] = [*filter(None, options)]

    return mutate


def _podman_unlimited(name: str) -> Mutation:
    def mutate(payload: dict[str, Any]) -> None:
        payload.get("resource_limits", {}).pop(name, None)
        if name == "memory":
            payload.pop("r_limits", None)

    return mutate


_STRANGER = "/usr/share"
"""A directory of the host that a case has no business with."""


def _docker_stranger(payload: dict[str, Any]) -> None:
    mount = {"Type": "bind", "Source": _STRANGER, "Target": "/mnt", "ReadOnly": True}
    payload["HostConfig"]["Mounts"].append(mount)


def _podman_stranger(payload: dict[str, Any]) -> None:
    payload["mounts"].append({"type": "bind", "source": _STRANGER, "destination": "/mnt", "options": ["ro"]})


_UNCONFINED = ["no-new-privileges", "label=disable", "seccomp=unconfined"]
_PRIVILEGED_DEVICES = [{"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/kmsg", "CgroupPermissions": "r"}]

MUTATIONS: Mapping[Check, tuple[Mutation, Mutation]] = {
    no_capabilities: (_docker(CapDrop=[]), _podman(cap_drop=[])),
    no_new_privileges: (_docker(SecurityOpt=["label=disable"]), _podman(no_new_privileges=False)),
    system_calls_are_filtered: (_docker(SecurityOpt=_UNCONFINED), _podman(seccomp_profile_path="unconfined")),
    keyrings_are_out_of_reach: (
        _docker(SecurityOpt=_UNCONFINED),
        _podman(seccomp_profile_path="/usr/share/containers/seccomp.json"),
    ),
    no_network_but_loopback: (_docker(NetworkMode="host"), _podman(netns={"nsmode": "host"})),
    root_is_read_only: (_docker(ReadonlyRootfs=False), _podman(read_only_filesystem=False)),
    dump_is_read_only: (_docker_bind("/case/vmcore"), _podman_bind("/case/vmcore")),
    debuginfo_is_read_only: (_docker_bind("/case/debuginfo"), _podman_bind("/case/debuginfo")),
    runtime_directory_is_read_only: (_docker_bind("/run/vmbox"), _podman_bind("/run/vmbox")),
    scratch_cannot_be_executed: (_docker_tmpfs("noexec", "exec"), _podman_tmpfs("noexec", "exec")),
    scratch_has_no_setuid: (_docker_tmpfs("nosuid", "suid"), _podman_tmpfs("nosuid", "suid")),
    scratch_has_no_devices: (_docker_tmpfs("nodev", "dev"), _podman_tmpfs("nodev", "dev")),
    scratch_is_limited: (_docker_tmpfs("size=", ""), _podman_tmpfs("size=", "")),
    nothing_else_is_mounted: (_docker_stranger, _podman_stranger),
    environment_is_the_sessions_own: (
        lambda payload: payload["Env"].append("HOST_SECRET=x"),
        lambda payload: payload["env"].update(HOST_SECRET="x"),
    ),
    only_harmless_devices: (_docker(Devices=_PRIVILEGED_DEVICES), _podman(devices=[{"path": "/dev/kmsg"}])),
    no_live_kernel: (_docker(MaskedPaths=[]), _podman(unmask=["ALL"])),
    other_processes_are_out_of_sight: (_docker(PidMode="host"), _podman(pidns={"nsmode": "host"})),
    memory_is_limited: (_docker(Memory=0, MemorySwap=0), _podman_unlimited("memory")),
    processes_are_limited: (_docker(PidsLimit=0), _podman_unlimited("pids")),
    cpus_are_limited: (_docker(NanoCpus=0), _podman_unlimited("cpu")),
}

CHECKS: tuple[Check, ...] = (*MUTATIONS, no_socket_is_in_reach)


# From inside


@pytest.fixture(scope="module")
def case(engine: EngineUnderTest, own_dump: Path) -> Iterator[dict[str, Any]]:
    """An open case, described as `vmbox list --json` does. Its vmbox had a secret in its environment."""
    # Image and debuginfo are got ready without them: a proxy that does not exist would fetch nothing.
    assert engine.run("prepare", str(own_dump)).returncode == 0
    engine.run("close", "--all")
    env = {**engine.env, "HOST_SECRET": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    env |= {"http_proxy": "http://user:hunter2@192.0.2.1:9", "no_proxy": "*"}
    done = subprocess.run([*engine.vmbox, "run", str(own_dump), "--", "p 1"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(engine.run("list", "--json").stdout)
    put_programs(Path(engine.env["VMBOX_RUNTIME_DIR"], "cases", found["id"], "shared"))
    yield found
    engine.run("close", "--all")


@pytest.fixture(scope="module")
def seen(engine: EngineUnderTest, own_dump: Path, case: dict[str, Any]) -> Seen:
    """What crash itself sees, asked by its shell escape."""
    commands = [part for command in QUESTIONS.values() for part in ("--", f"!{command}")]
    done = engine.run("run", str(own_dump), "--json", *commands)
    answers = [json.loads(line)["output"].strip() for line in done.stdout.splitlines()]
    return {**dict(zip(QUESTIONS, answers, strict=True)), "engine limits": str(engine.engine.info().limits)}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_a_case(seen: Seen, check: Check) -> None:
    check(seen)


def test_no_secret_of_the_host_is_inside(engine: EngineUnderTest, own_dump: Path, case: dict[str, Any]) -> None:
    search = "!grep -l [h]unter2 /proc/[0-9]*/environ /proc/[0-9]*/cmdline /run/.containerenv 2>/dev/null; true"
    assert engine.run("run", str(own_dump), "--", search).stdout == b""


# Each shown to fail when its setting is removed


@contextlib.contextmanager
def _mutated(
    engine: EngineUnderTest, mutation: tuple[Mutation, Mutation] | None, *, inspected: bool = False
) -> Iterator[None]:
    """Changes what this engine's adapter sends to create a container, which it does not look at before the start."""
    api: Any = engine.engine
    with pytest.MonkeyPatch.context() as patch:
        if not inspected:
            patch.setattr(created, "refuse_unless_as_asked", lambda *_, **__: None)
        if mutation is not None and isinstance(api, DockerEngine):
            create = api._api.create_container_from_config

            def docker_create(config: dict[str, Any], *rest: Any) -> Any:
                mutation[0](config)
                return create(config, *rest)

            patch.setattr(api._api, "create_container_from_config", docker_create)
        elif mutation is not None:
            call = api._call

            def podman_call(method: str, path: str, **more: Any) -> Any:
                if path == "/containers/create":
                    more["json_body"] = copy.deepcopy(more["json_body"])
                    mutation[1](more["json_body"])
                return call(method, path, **more)

            patch.setattr(api, "_call", podman_call)
        yield


def _ask(engine: EngineUnderTest, spec: ContainerSpec) -> dict[str, str]:
    """The answers of a container that is a case but for what PID 1 runs."""
    script = "\n".join(f"echo '@''@ {name}'; {command}" for name, command in QUESTIONS.items())
    asking = _with(spec, argv=["sh", "-c", script], name=None)
    # The script, which one of the questions shows, does not have the mark in one piece.
    parts = b"".join(engine.engine.run(asking)).decode().split("@@ ")[1:]
    answers = {name: answer.strip() for name, answer in (part.split("\n", 1) for part in parts)}
    return {**answers, "engine limits": str(engine.engine.info().limits)}


def _with(spec: ContainerSpec, **changes: Any) -> ContainerSpec:
    return ContainerSpec(**{name: getattr(spec, name) for name in ContainerSpec.__slots__} | changes)


@pytest.fixture(scope="module")
def spec(engine: EngineUnderTest, own_dump: Path, case: dict[str, Any]) -> ContainerSpec:
    """What the case was opened with."""
    runtime = engine.directory()
    (runtime / "lock").touch()
    os.chown(runtime / "lock", engine.uid, engine.gid)
    put_programs(runtime)
    return container_spec(
        name="vmbox-isolation",
        image=case["image"],
        files=[own_dump],
        debuginfo=Path(case["vmlinux"]).parent,
        runtime=runtime,
        labels={"vmbox.test": "isolation"},
        env={"IDLE": "0"},
        limits=limits(engine.engine.info()),
    )


def test_what_is_not_mutated_is_a_case(engine: EngineUnderTest, spec: ContainerSpec) -> None:
    answers = _ask(engine, spec)
    for check in CHECKS:
        check(answers)


def _has_no_such_setting(engine: EngineUnderTest, check: Check) -> bool:
    info = engine.engine.info()
    limits = check in {processes_are_limited, cpus_are_limited}
    return (limits and not info.limits) or (check is keyrings_are_out_of_reach and info.rootless)


@pytest.mark.parametrize("check", MUTATIONS, ids=lambda check: check.__name__)
def test_notices_when_the_setting_is_gone(engine: EngineUnderTest, spec: ContainerSpec, check: Check) -> None:
    if _has_no_such_setting(engine, check):
        return
    with _mutated(engine, MUTATIONS[check]):
        answers = _ask(engine, spec)
    with pytest.raises(AssertionError):
        check(answers)


@pytest.mark.parametrize("check", MUTATIONS, ids=lambda check: check.__name__)
def test_case_is_not_started_when_the_setting_is_gone(
    engine: EngineUnderTest, spec: ContainerSpec, check: Check
) -> None:
    """As after a configuration of the engine's that takes it away."""
    if _has_no_such_setting(engine, check):
        return
    before = {one.id for one in engine.engine.containers({})}
    with _mutated(engine, MUTATIONS[check], inspected=True), pytest.raises(EngineFailed, match="than it was asked to"):
        engine.engine.start(_with(spec, name=None, argv=["sleep", "60"]))
    assert {one.id for one in engine.engine.containers({})} == before


def test_notices_a_socket_of_the_engine(engine: EngineUnderTest, spec: ContainerSpec) -> None:
    socket = Path(engine.url.removeprefix("unix://"))
    with_socket = _with(spec, binds=[*spec.binds, Bind(source=socket, target="/run/engine.sock")])
    with pytest.raises(AssertionError):
        no_socket_is_in_reach(_ask(engine, with_socket))


# From outside


@pytest.fixture(scope="module")
def crash(engine: EngineUnderTest, case: dict[str, Any]) -> Path:
    """/proc/PID of the case's crash, on the host."""
    (container,) = engine.engine.containers({labels.CASE: ""})
    api: Any = engine.engine
    if isinstance(api, DockerEngine):
        first = api._api.inspect_container(container.id)["State"]["Pid"]
    else:
        first = api._call("GET", f"/containers/{container.id}/json").json()["State"]["Pid"]
    namespace = Path(f"/proc/{first}/ns/pid").readlink()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "ns/pid").readlink() == namespace and (entry / "comm").read_text() == "crash\n":
                return entry
    raise AssertionError("no crash runs")


def test_namespaces_are_its_own(engine: EngineUnderTest, crash: Path) -> None:
    names = ["net", "mnt", "pid", "ipc", "uts", *(["user"] if engine.engine.info().rootless else [])]
    assert [
        name for name in names if (crash / "ns" / name).readlink() == Path(f"/proc/self/ns/{name}").readlink()
    ] == []


def test_runs_as_the_caller_without_privileges(engine: EngineUnderTest, crash: Path) -> None:
    status = dict(line.split(":\t", 1) for line in (crash / "status").read_text().splitlines() if ":\t" in line)
    assert {int(uid) for uid in status["Uid"].split()} == {engine.uid}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"].strip(), status["Seccomp"].strip()) == ("1", "2")


def test_opens_the_dump_for_reading_only(crash: Path) -> None:
    descriptors = [one for one in (crash / "fd").iterdir() if one.readlink().name == "vmcore"]
    assert descriptors
    for one in descriptors:
        flags = dict(line.split(":\t") for line in (crash / "fdinfo" / one.name).read_text().splitlines()[:3])["flags"]
        assert int(flags, 8) & os.O_ACCMODE == os.O_RDONLY


def test_dump_is_not_executable_code(crash: Path) -> None:
    executable = {line.split()[-1] for line in (crash / "maps").read_text().splitlines() if "x" in line.split()[1]}
    assert not any(path.startswith(("/case", "/scratch", "/tmp")) for path in executable)


UNRULY = (
    "for p in $(grep -l [v]mbox/session /proc/[0-9]*/cmdline); do p=$(echo $p | tr -dc 0-9); kill -STOP $p; done",
    "(trap '' TERM HUP; while :; do yes '' | head -c 70000 >/run/vmbox/ctl; done) >/dev/null 2>&1 &",
    "(trap '' TERM HUP; while :; do echo >/run/vmbox/in; sleep 1; done) >/dev/null 2>&1 &",
    "for f in /run/vmbox/lock /run/vmbox/shell-*; do setsid flock $f sleep 1000 >/dev/null 2>&1 & done",
)
"""What a dump that runs code does to stay: the watch of its limit is stopped, its FIFO is full, its locks are held.

`in` is the FIFO of crash, which does not run here: drgn's is in-2."""


def test_idle_limit_holds_whatever_the_case_does(engine: EngineUnderTest, own_dump: Path) -> None:
    """By a process that outlives the client; nothing is left."""
    engine.run("close", "--all")
    # Storage outlives a run of the tests, and one that was killed.
    known = set(engine.run("doctor", "--leaks", "--engine", engine.url).stdout.splitlines())
    commands = ["--with", "drgn", *(part for command in UNRULY for part in ("--", f"!{command}"))]
    assert engine.run("--set", "idle=4", "run", str(own_dump), *BY_DRGN).returncode == 0
    place = Path(engine.env["VMBOX_RUNTIME_DIR"], "cases")
    (case,) = (one for one in place.iterdir() if one.is_dir())
    (case / "shared" / "shell-left").touch()  # by a client that was killed
    (container,) = (one.id for one in engine.engine.containers({labels.CASE: ""}))
    assert engine.run("run", str(own_dump), *commands).returncode == 0
    began = time.monotonic()
    while engine.engine.container(container) is not None:
        assert time.monotonic() - began < 60
        time.sleep(0.5)
    assert time.monotonic() - began > 4
    while case.exists():
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    assert set(engine.run("doctor", "--leaks", "--engine", engine.url).stdout.splitlines()) <= known


def test_engine_is_told_not_to_relabel(engine: EngineUnderTest, spec: ContainerSpec) -> None:
    """SELinux is not on every host: what is asked of the engine is looked at. Relabelling would write to the dump."""
    sent: list[dict[str, Any]] = []
    with _mutated(engine, (sent.append, sent.append)):
        _ask(engine, spec)
    if isinstance(engine.engine, DockerEngine):
        assert "label=disable" in sent[0]["HostConfig"]["SecurityOpt"]
        # Mount has no field for it, and binds in the old form, which have, are not used.
        assert not sent[0]["HostConfig"].get("Binds")
    else:
        assert sent[0]["selinux_opts"] == ["disable"]
        assert not any({"z", "Z"} & set(mount["options"]) for mount in sent[0]["mounts"])


def test_is_not_root_for_a_caller_who_is_not(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, dumps: Dumps
) -> None:
    """On an engine that runs as root, somebody of the socket's group."""
    if os.getuid() != 0:
        return  # then test_runs_as_the_caller_without_privileges has shown it
    image = docker_engine.engine.images({labels.IMAGE: ""})[0].id
    script = (
        "import sys; from sandbox.engine import ContainerSpec, connect; e = connect(sys.argv[1]);"
        "print(b''.join(e.run(ContainerSpec(image=sys.argv[2], argv=['id', '-u']))).decode()); e.close()"
    )
    python = podman_rootless.vmbox[podman_rootless.vmbox.index("--") + 1]
    who = ["setpriv", "--reuid", str(podman_rootless.uid), "--regid", str(podman_rootless.gid), "--groups", "0", "--"]
    command = [*who, python, "-c", script, docker_engine.url, image]
    done = subprocess.run(command, env=dict(podman_rootless.env), capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout.strip() == str(podman_rootless.uid), done.stderr

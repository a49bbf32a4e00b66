"""The contract of `sandbox.engine.Engine`, which every engine keeps: all of `contract`, and the rest, on real ones."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from pathlib import Path

import pytest

from contract import *  # noqa: F403 - pytest runs the tests that a module has
from contract import LABELS, drain, gone_within, output, spec, started, wait_for
from engines import EngineUnderTest
from memory_engine import containerfile
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.engine.podman import PodmanEngine
from sandbox.errors import ImageBuildFailed, PathNotFound

# Information


def test_info(engine: EngineUnderTest) -> None:
    info = engine.engine.info()
    assert info.name == engine.name.split("-")[0]
    assert info.endpoint == engine.url
    assert info.rootless == (engine.name == "podman-rootless")
    assert info.arch == os.uname().machine
    assert info.local
    assert info.version[0].isdigit()


# Containers


def test_only_argv_runs(api: Engine, base: str) -> None:
    context = containerfile(f'FROM {base}\nENTRYPOINT ["/bin/false"]\nCMD ["x"]\n')
    list(api.build(context, "localhost/vmbox/test-entry:1", labels=LABELS))
    try:
        assert (
            output(api, ContainerSpec(image="localhost/vmbox/test-entry:1", argv=["/bin/echo", "a b", "c"]))
            == b"a b c\n"
        )
        assert (
            output(api, ContainerSpec(image="localhost/vmbox/test-entry:1", argv=["/bin/pwd"], workdir="/work"))
            == b"/work\n"
        )
    finally:
        api.remove_image("localhost/vmbox/test-entry:1")


# Run


def test_run_loses_no_output(api: Engine, base: str) -> None:
    size = 100_000_000
    read = sum(map(len, api.run(spec(base, f"head -c {size} /dev/zero"))))
    assert read == size


def test_run_waits_for_a_slow_reader(api: Engine, base: str) -> None:
    read = 0
    for number, piece in enumerate(api.run(spec(base, "head -c 20000000 /dev/zero"))):
        read += len(piece)
        if number < 10:
            time.sleep(0.1)
    assert read == 20_000_000


def test_run_streams(api: Engine, base: str) -> None:
    arrivals = [time.monotonic() for _ in api.run(spec(base, "for i in 1 2 3; do echo $i; sleep 0.5; done"))]
    assert arrivals[-1] - arrivals[0] > 0.8


def test_run_passes_errors_on_as_they_arrive(api: Engine, base: str) -> None:
    heard: list[tuple[float, bytes]] = []
    script = "echo one >&2; sleep 1; echo two >&2; sleep 1; echo out"
    said = b"".join(api.run(spec(base, script), on_stderr=lambda piece: heard.append((time.monotonic(), piece))))
    assert said == b"out\n"
    assert b"".join(piece for _, piece in heard) == b"one\ntwo\n"
    assert heard[-1][0] - heard[0][0] > 0.5


def test_run_removes_when_interrupted(api: Engine, base: str) -> None:
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(api.run(spec(base, "sleep 600")))
    assert api.containers(LABELS) == []


# Exec


def test_exec_large_output(api: Engine, idle: str) -> None:
    read = 0
    with api.exec(idle, ["head", "-c", "100000000", "/dev/zero"]) as stream:
        while piece := stream.read():
            read += len(piece)
        assert stream.exit_code() == 0
    assert read == 100_000_000


def test_exec_terminal_and_its_size(api: Engine, idle: str) -> None:
    # Podman answers when its monitor has been told, which on a busy host reads the terminal's input first.
    arrives = "i=0; until stty size | grep -q '33 99' || [ $i = 50 ]; do i=$((i + 1)); sleep 0.1; done"
    script = f"read -r _; {arrives}; stty size; tty; exit 4"
    with api.exec(idle, ["sh", "-c", script], tty=True, stdin=True) as stream:
        stream.resize(rows=33, columns=99)
        stream.write(b"\n")
        said = drain(stream)
        assert b"33 99" in said
        assert b"/dev/pts/" in said
        assert stream.exit_code() == 4
        stream.resize(rows=10, columns=10)


def test_exec_can_be_polled(api: Engine, idle: str) -> None:
    with api.exec(idle, ["sh", "-c", "read -r _; echo hello"], tty=True, stdin=True) as stream:
        assert not stream.pending()
        stream.write(b"\n")
        said = b""
        deadline = time.monotonic() + 10
        while b"hello" not in said and time.monotonic() < deadline:
            if stream.pending() or select.select([stream.fileno()], [], [], 1)[0]:
                said += stream.read()
        assert b"hello" in said


# Images


def test_build_streams_and_labels(api: Engine, base: str) -> None:
    ref = "localhost/vmbox/test-build:1"
    context = containerfile(
        "ARG BASE\nFROM ${BASE}\nARG STAMP\nCOPY files/hello /hello\n"
        "RUN echo $STAMP; for i in one two three; do echo line-$i; sleep 1; done\n"
    )
    arrivals = {}
    for line in api.build(context, ref, labels={**LABELS, "k": "v w"}, args={"BASE": base, "STAMP": str(time.time())}):
        arrivals.setdefault(line, time.monotonic())
    try:
        assert 0.7 < arrivals["line-two"] - arrivals["line-one"] < 3
        assert 0.7 < arrivals["line-three"] - arrivals["line-two"] < 3
        image = api.image(ref)
        assert image is not None
        assert image.labels.items() >= {**LABELS, "k": "v w"}.items()
        assert output(api, ContainerSpec(image=ref, argv=["/bin/cat", "/hello"])) == b"hello\n"
        assert [one.tags for one in api.images({**LABELS, "k": "v w"})] == [(ref,)]
    finally:
        api.remove_image(ref)
    assert api.image(ref) is None
    api.remove_image(ref)


def test_build_has_the_hosts_network(api: Engine, base: str) -> None:
    interfaces = {line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    context = containerfile(f"FROM {base}\nRUN cat /proc/net/dev; echo {time.time()}\n")
    said = "\n".join(api.build(context, "localhost/vmbox/test-net:1", labels=LABELS))
    api.remove_image("localhost/vmbox/test-net:1")
    assert all(f"{name}:" in said for name in interfaces)


def test_build_failure(api: Engine, base: str) -> None:
    before = {container.id for container in api.containers({})}
    images = {image.id for image in api.images({})}
    steps = f"RUN echo {time.time()} > /one\nRUN echo two > /two\nRUN echo about to fail; echo why >&2; exit 5\n"
    context = containerfile(f"FROM {base}\n{steps}")
    with pytest.raises(ImageBuildFailed) as caught:
        list(api.build(context, "localhost/vmbox/test-fail:1", labels=LABELS))
    assert "\n" not in caught.value.message
    assert "about to fail" in (caught.value.detail or "")
    assert "why" in (caught.value.detail or "").splitlines()
    assert {container.id for container in api.containers({})} == before
    # There are also no images of the successful steps.
    assert {image.id for image in api.images({})} == images
    assert api.image("localhost/vmbox/test-fail:1") is None


def test_build_abandoned(api: Engine, base: str) -> None:
    before = {container.id for container in api.containers({})}
    images = {image.id for image in api.images({})}
    context = containerfile(f"FROM {base}\nRUN echo {time.time()} >/one\nRUN echo two; echo going; sleep 20\n")
    lines = api.build(context, "localhost/vmbox/test-gone:1", labels=LABELS)
    assert any(line == "going" for line in lines)
    lines.close()  # type: ignore[attr-defined]
    wait_for(lambda: {container.id for container in api.containers({})} == before)
    # Nor is there an image of the step that had ended.
    assert {image.id for image in api.images({})} == images
    assert api.image("localhost/vmbox/test-gone:1") is None


# Isolation, as seen from inside


@pytest.fixture(scope="module")
def hardened(engine: EngineUnderTest, base: str) -> dict[str, str]:
    """Output of one hardened container, by question."""
    dump = engine.directory()
    (dump / "vmcore").write_bytes(b"evidence")
    os.chown(dump / "vmcore", engine.uid, engine.gid)
    (dump / "vmcore").chmod(0o600)
    questions = {
        "capabilities": "grep -E '^Cap' /proc/self/status",
        "new privileges": "grep NoNewPrivs /proc/self/status",
        "seccomp": "grep '^Seccomp:' /proc/self/status",
        "interfaces": "ls /sys/class/net",
        "mounts": "cat /proc/mounts",
        "write root": "for d in / /etc /run /root /work /bin; do touch $d/x && exit; done; echo refused",
        "write bind": "touch /case/x || echo more >> /case/vmcore || echo refused",
        "read bind": "cat /case/vmcore",
        "write tmp": "echo ok > /tmp/x && cat /tmp/x",
        "execute tmp": "cp /bin/busybox /tmp/echo && /tmp/echo hello || echo refused",
        "fill tmp": "head -c 8000000 /dev/zero > /tmp/full || echo refused; rm -f /tmp/full",
        "mount": "mount -t tmpfs none /work || echo refused",
        "chown": "chown 1234 /tmp/x || echo refused",
        "kernel": "echo 1 > /proc/sys/kernel/sysrq || echo refused",
        "connect": "wget -T 2 -O- http://192.0.2.1/ || echo refused",
        "devices": "ls /dev",
    }
    script = "\n".join(f"echo '## {name}'; ({command}) 2>/dev/null" for name, command in questions.items())
    answers = output(
        engine.engine,
        spec(
            base,
            script,
            binds=[Bind(source=dump, target="/case")],
            tmpfs=[Tmpfs(target="/tmp", size=4 << 20)],
            memory=64 << 20,
            pids=64,
        ),
    ).decode()
    parts = [part.split("\n", 1) for part in answers.split("## ")[1:]]
    return {name: answer.strip() for name, answer in parts}


def test_hardened_has_no_privileges(hardened: dict[str, str]) -> None:
    assert {int(line.split()[1], 16) for line in hardened["capabilities"].splitlines()} == {0}
    assert hardened["new privileges"].split()[1] == "1"
    assert hardened["seccomp"].split()[1] == "2"
    assert [hardened[name] for name in ("mount", "chown", "kernel")] == ["refused"] * 3


def test_hardened_has_no_network(hardened: dict[str, str]) -> None:
    assert hardened["interfaces"] == "lo"
    assert hardened["connect"] == "refused"


def test_hardened_writes_nowhere(hardened: dict[str, str]) -> None:
    assert hardened["write root"] == "refused"
    assert hardened["write bind"] == "refused"
    options = {line.split()[1]: line.split()[3].split(",") for line in hardened["mounts"].splitlines()}
    assert "ro" in options["/"]
    assert "ro" in options["/case"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(options["/tmp"])


def test_hardened_reads_the_dump_and_has_scratch(hardened: dict[str, str]) -> None:
    assert hardened["read bind"] == "evidence"
    assert hardened["write tmp"] == "ok"
    assert hardened["execute tmp"] == "refused"
    assert hardened["fill tmp"] == "refused"


def test_hardened_sees_no_devices_of_the_host(hardened: dict[str, str]) -> None:
    assert not {"mem", "kmsg", "kvm", "fuse", "sda", "vda"} & set(hardened["devices"].split())


def test_limits(api: Engine, base: str) -> None:
    if not api.info().limits:  # rootless on cgroup v1: info() has limits=False, and the engine does not refuse
        assert output(api, spec(base, "echo ran", memory=64 << 20, pids=20, cpus=0.5)) == b"ran\n"
        return
    script = "(for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 1 & done) 2>&1; wait"
    assert b"fork" in output(api, spec(base, script + "; true", pids=20)).lower()
    hog = spec(base, "head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null", memory=32 << 20, auto_remove=False)
    with started(api, hog) as container:
        assert api.wait(container.id) == 137


def test_binds_follow_the_caller(engine: EngineUnderTest, api: Engine, base: str) -> None:
    shared = engine.directory()
    shared.chmod(0o700)
    output(api, spec(base, "echo hello > /case/new", binds=[Bind(source=shared, target="/case", read_only=False)]))
    made = (shared / "new").stat()
    assert (made.st_uid, made.st_gid) == (engine.uid, engine.gid)
    assert (shared / "new").read_text() == "hello\n"


def test_a_missing_path_to_bind(engine: EngineUnderTest, api: Engine, base: str) -> None:
    shared = engine.directory()
    (shared / "file").touch()
    for place in (shared / "nothing", shared / "file" / "below"):
        with pytest.raises(PathNotFound):
            api.start(spec(base, "true", binds=[Bind(source=place, target="/case")]))


def test_unhardened_is_root_with_the_usual_capabilities(api: Engine, base: str) -> None:
    script = "touch /x; chown 33:33 /x && id -u; grep CapEff /proc/self/status"
    uid, capabilities = output(api, spec(base, script, hardened=False, as_caller=False)).decode().split("\n")[:2]
    assert uid == "0"
    assert int(capabilities.split()[1], 16) & 1


def test_host_network(api: Engine, base: str) -> None:
    seen = (
        output(api, spec(base, "ls /sys/class/net", hardened=False, as_caller=False, network="host")).decode().split()
    )
    assert set(seen) == {path.name for path in Path("/sys/class/net").iterdir()}


def test_no_anonymous_volume_is_left(api: Engine, base: str) -> None:
    ref = "localhost/vmbox/test-volume:1"
    list(api.build(containerfile(f"FROM {base}\nVOLUME /data\n"), ref, labels=LABELS))
    try:
        before = volumes(api)
        container = api.start(spec(ref, "sleep 600"))
        api.remove(container.id)
        assert output(api, spec(ref, "echo ok")) == b"ok\n"
        container = api.start(spec(ref, "sleep 0.1"))
        gone_within(api, container.id, 10)
        assert volumes(api) == before
    finally:
        api.remove_image(ref)


def volumes(api: Engine) -> set[str]:
    if isinstance(api, PodmanEngine):
        return {volume["Name"] for volume in api._call("GET", "/volumes/json").json()}
    client = api._client  # type: ignore[attr-defined]
    return {volume.name for volume in client.volumes.list()}

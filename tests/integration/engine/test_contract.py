"""The contract of `sandbox.engine.Engine`, which every engine keeps. Runs on real engines."""

from __future__ import annotations

import io
import os
import select
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import EngineUnderTest
from sandbox.engine import Bind, Container, ContainerSpec, Engine, Exec, Tmpfs
from sandbox.engine.podman import PodmanEngine
from sandbox.errors import BaseImageUnavailable, EngineFailed, ImageBuildFailed, PathNotFound

LABELS = {"vmbox.test": "contract"}


def spec(base: str, script: str, **more: object) -> ContainerSpec:
    return ContainerSpec(image=base, argv=["/bin/sh", "-c", script], labels=LABELS, **more)  # type: ignore[arg-type]


def output(api: Engine, one: ContainerSpec) -> bytes:
    return b"".join(api.run(one))


@contextmanager
def started(api: Engine, one: ContainerSpec) -> Iterator[Container]:
    container = api.start(one)
    try:
        yield container
    finally:
        api.remove(container.id)


@pytest.fixture
def idle(api: Engine, base: str) -> Iterator[str]:
    """Id of a hardened container that does nothing."""
    with started(api, spec(base, "sleep 600")) as container:
        yield container.id


def drain(stream: Exec) -> bytes:
    pieces = []
    while piece := stream.read():
        pieces.append(piece)
    return b"".join(pieces)


def executed(api: Engine, ident: str, *argv: str) -> tuple[bytes, bytes, int]:
    with api.exec(ident, argv) as stream:
        return drain(stream), stream.errors, stream.exit_code()


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


def test_start_inspect_remove(api: Engine, base: str) -> None:
    container = api.start(spec(base, "sleep 600", name="vmbox-test-one"))
    assert container.running
    assert container.name == "vmbox-test-one"
    assert container.labels.items() >= LABELS.items()
    assert api.container("vmbox-test-one") == api.container(container.id) == container
    api.remove(container.id)
    assert api.container(container.id) is None
    api.remove(container.id)


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


def test_containers_by_several_labels(api: Engine, base: str) -> None:
    one = ContainerSpec(image=base, argv=["/bin/sleep", "600"], labels={**LABELS, "case": "1"})
    two = ContainerSpec(image=base, argv=["/bin/sleep", "600"], labels={**LABELS, "case": "2"})
    with started(api, one) as first, started(api, two) as second:
        found = {container.id for container in api.containers(LABELS)}
        assert found == {first.id, second.id}
        assert [c.id for c in api.containers({**LABELS, "case": "2"})] == [second.id]
        assert {c.id for c in api.containers({"vmbox.test": "", "case": ""})} == found
        assert api.containers({**LABELS, "case": "3"}) == []
        assert all(container.running for container in api.containers(LABELS))


def test_exit_code_and_log(api: Engine, base: str) -> None:
    with started(api, spec(base, "echo out; echo err >&2; exit 3", auto_remove=False)) as container:
        assert api.wait(container.id) == 3
        ended = api.container(container.id)
        assert ended is not None
        assert (ended.running, ended.exit_code) == (False, 3)
        assert [c.running for c in api.containers(LABELS)] == [False]
        assert sorted(api.logs(container.id).split()) == [b"err", b"out"]
        assert len(api.logs(container.id, tail=1).split()) == 1


def test_auto_remove(api: Engine, base: str) -> None:
    container = api.start(spec(base, "sleep 0.3"))
    gone_within(api, container.id, 10)


def test_a_container_that_cannot_start_leaves_nothing(api: Engine, base: str) -> None:
    with pytest.raises(EngineFailed, match="/no/such/binary") as caught:
        api.start(ContainerSpec(image=base, argv=["/no/such/binary"], labels=LABELS))
    assert "\n" not in caught.value.message
    with pytest.raises(EngineFailed, match="no-such-image"):
        api.start(ContainerSpec(image="localhost/vmbox/no-such-image:1", argv=["/bin/true"], labels=LABELS))


def test_unknown_container(api: Engine) -> None:
    assert api.container("no-such-container") is None
    with pytest.raises(EngineFailed):
        api.exec("no-such-container", ["true"])


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


def test_run_is_binary_and_ordered(api: Engine, base: str) -> None:
    everything = output(api, spec(base, r"i=0; while [ $i -lt 256 ]; do printf \\$(printf %o $i); i=$((i+1)); done"))
    assert everything == bytes(range(256))


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


def test_run_fails_with_the_last_lines_of_stderr(api: Engine, base: str) -> None:
    pieces = api.run(spec(base, "echo out; sleep 0.2; echo context >&2; echo the reason >&2; exit 3"))
    assert next(pieces) == b"out\n"
    with pytest.raises(EngineFailed, match=r"exit status 3.*the reason") as caught:
        next(pieces)
    assert caught.value.detail == "context\nthe reason"


def test_run_removes_when_closed_early(api: Engine, base: str) -> None:
    pieces = api.run(spec(base, "echo one; sleep 600"))
    assert next(pieces) == b"one\n"
    pieces.close()  # type: ignore[attr-defined]
    assert api.containers(LABELS) == []


def test_run_removes_when_interrupted(api: Engine, base: str) -> None:
    threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        list(api.run(spec(base, "sleep 600")))
    assert api.containers(LABELS) == []


# Exec


def test_exec_separates_output_errors_and_exit_code(api: Engine, idle: str) -> None:
    assert executed(api, idle, "sh", "-c", "echo out; echo err >&2; exit 7") == (b"out\n", b"err\n", 7)
    assert executed(api, idle, "true") == (b"", b"", 0)


def test_exec_loses_no_first_bytes(api: Engine, idle: str) -> None:
    for number in range(10):
        assert executed(api, idle, "echo", str(number)) == (f"{number}\n".encode(), b"", 0)


def test_exec_environment(api: Engine, idle: str) -> None:
    with api.exec(idle, ["sh", "-c", "echo $TERM"], env={"TERM": "vt100"}) as stream:
        assert drain(stream) == b"vt100\n"


def test_exec_stdin_ends_when_closed(api: Engine, idle: str) -> None:
    with api.exec(idle, ["sh", "-c", "wc -c; echo done"], stdin=True) as stream:
        for _ in range(10):
            stream.write(b"x" * 10_000)
        stream.close_stdin()
        assert drain(stream) == b"100000\ndone\n"
        assert stream.exit_code() == 0


def test_exec_large_output(api: Engine, idle: str) -> None:
    read = 0
    with api.exec(idle, ["head", "-c", "100000000", "/dev/zero"]) as stream:
        while piece := stream.read():
            read += len(piece)
        assert stream.exit_code() == 0
    assert read == 100_000_000


def test_exec_missing_binary(api: Engine, idle: str) -> None:
    said, errors, status = executed(api, idle, "no-such-command")
    assert status in {126, 127}
    assert b"no-such-command" in said + errors


def test_exec_terminal_and_its_size(api: Engine, idle: str) -> None:
    with api.exec(idle, ["sh", "-c", "read -r _; stty size; tty; exit 4"], tty=True, stdin=True) as stream:
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


def test_exec_ends_with_its_container(api: Engine, base: str) -> None:
    with started(api, spec(base, "sleep 600")) as container, api.exec(container.id, ["sleep", "600"]) as stream:
        threading.Timer(0.5, api.remove, [container.id]).start()
        assert drain(stream) == b""


# Images


def containerfile(text: str) -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, content in {"Containerfile": text, "files/hello": "hello\n"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
    context.seek(0)
    return context


def test_import_keeps_labels(api: Engine, base: str) -> None:
    image = api.image(base)
    assert image is not None
    assert image.labels["vmbox.quoted"] == 'a "b" $c'
    assert base in image.tags
    assert image.size > 1_000_000
    assert [one.id for one in api.images({"vmbox.test": "base", "vmbox.quoted": ""})] == [image.id]
    assert api.images({"vmbox.test": "base", "vmbox.quoted": "other"}) == []
    assert api.image("localhost/vmbox/no-such-image:1") is None


def test_import_reads_a_stream(api: Engine, base: str, rootfs: Path) -> None:
    with rootfs.open("rb") as tar:
        api.import_rootfs(tar, "localhost/vmbox/test-stream:1", {})
    assert api.image("localhost/vmbox/test-stream:1") is not None
    api.remove_image("localhost/vmbox/test-stream:1")


def test_import_of_another_architecture(api: Engine, rootfs: Path) -> None:
    ref = "localhost/vmbox/test-other:1"
    api.import_rootfs(rootfs, ref, {**LABELS, "said": 'a "b" $c'}, platform="linux/arm64")
    try:
        image = api.image(ref)
        assert image is not None
        assert image.arch == "aarch64"
        assert image.labels.items() >= {**LABELS, "said": 'a "b" $c'}.items()
        # A build on it has the same architecture; nothing has to run for that.
        context = containerfile(f"FROM {ref}\nCOPY files/hello /hello\nCOPY files/hello /again\n")
        list(api.build(context, "localhost/vmbox/test-built:1", labels=LABELS, platform="linux/arm64"))
        built = api.image("localhost/vmbox/test-built:1")
        assert built is not None
        assert built.arch == "aarch64"
        api.remove_image("localhost/vmbox/test-built:1")
    finally:
        api.remove_image(ref)


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


def test_build_of_an_invalid_containerfile(api: Engine) -> None:
    with pytest.raises(ImageBuildFailed) as caught:
        list(api.build(containerfile("FRO M\n"), "localhost/vmbox/test-fail:1", labels=LABELS))
    assert "\n" not in caught.value.message


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


def test_pull_of_a_missing_image(api: Engine) -> None:
    with pytest.raises(BaseImageUnavailable, match=r"registry\.invalid/a/b:1") as caught:
        list(api.pull("registry.invalid/a/b:1"))
    assert "\n" not in caught.value.message


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


def gone_within(api: Engine, ident: str, seconds: float) -> None:
    wait_for(lambda: api.container(ident) is None, seconds)


def wait_for(condition: object, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)

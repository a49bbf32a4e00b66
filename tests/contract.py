"""The part of the contract of `sandbox.engine.Engine` that needs no kernel: the one in memory keeps it as the real do.

A module that imports all of it runs it, on its fixtures `api` (an engine), `base` and `rootfs` (an image with busybox,
and what that is made of).
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memory_engine import containerfile
from memory_process import BUSYBOX
from sandbox.engine import Container, ContainerSpec, Engine, Exec
from sandbox.errors import BaseImageUnavailable, EngineFailed, ImageBuildFailed

LABELS = {"vmbox.test": "contract"}


def make_rootfs(path: Path) -> Path:
    """Write the tar of a root file system with Debian's static busybox alone to `path`, and return that."""
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev", "run", "root", "case", "work"):
            _add(tar, name, type=tarfile.DIRTYPE)
        _add(tar, "tmp", type=tarfile.DIRTYPE, mode=0o1777)
        _add(tar, "bin/busybox", Path(BUSYBOX).read_bytes())
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


def import_base(engine: Engine, rootfs: Path) -> str:
    """Make the image that the contract is tried with, and return its reference."""
    ref = "localhost/vmbox/test-base:1"
    engine.import_rootfs(rootfs, ref, {"vmbox.test": "base", "vmbox.quoted": 'a "b" $c'})
    return ref


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


def test_start_inspect_remove(api: Engine, base: str) -> None:
    container = api.start(spec(base, "sleep 600", name="vmbox-test-one"))
    assert container.running
    assert container.name == "vmbox-test-one"
    assert container.labels.items() >= LABELS.items()
    assert api.container("vmbox-test-one") == api.container(container.id) == container
    api.remove(container.id)
    assert api.container(container.id) is None
    api.remove(container.id)


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


def test_run_is_binary_and_ordered(api: Engine, base: str) -> None:
    everything = output(api, spec(base, r"i=0; while [ $i -lt 256 ]; do printf \\$(printf %o $i); i=$((i+1)); done"))
    assert everything == bytes(range(256))


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


def test_exec_missing_binary(api: Engine, idle: str) -> None:
    said, errors, status = executed(api, idle, "no-such-command")
    assert status in {126, 127}
    assert b"no-such-command" in said + errors


def test_exec_ends_with_its_container(api: Engine, base: str) -> None:
    with started(api, spec(base, "sleep 600")) as container, api.exec(container.id, ["sleep", "600"]) as stream:
        threading.Timer(0.5, api.remove, [container.id]).start()
        assert drain(stream) == b""


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


def test_build_of_an_invalid_containerfile(api: Engine) -> None:
    with pytest.raises(ImageBuildFailed) as caught:
        list(api.build(containerfile("FRO M\n"), "localhost/vmbox/test-fail:1", labels=LABELS))
    assert "\n" not in caught.value.message


def test_pull_of_a_missing_image(api: Engine) -> None:
    with pytest.raises(BaseImageUnavailable, match=r"registry\.invalid/a/b:1") as caught:
        list(api.pull("registry.invalid/a/b:1"))
    assert "\n" not in caught.value.message


def gone_within(api: Engine, ident: str, seconds: float) -> None:
    wait_for(lambda: api.container(ident) is None, seconds)


def wait_for(condition: object, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)

"""`vmbox demo` up to the engine: which kernel, which machine, and what is said when a step in the container fails.

The engine is a fake one here: tests/e2e makes every dump of the suite with real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from sandbox import image, profiles
from sandbox.commands import demo
from sandbox.commands.demo_triggers import TRIGGERS
from sandbox.engine import ContainerSpec, Engine
from sandbox.errors import ConfigurationError, DemoFailed, EngineFailed, UsageError
from sandbox.host import paths
from sandbox.progress import QUIET, Reporter, Step

BINARY, MODULES = (f"linux-{part}-7.2.12+deb14-cloud-amd64_7.2.12-1_amd64.deb" for part in ("binary", "modules"))
IMAGE = "linux-image-7.2.12+deb14-cloud-amd64_7.2.12-1_amd64.deb"


class _Engine:
    def __init__(self, crash: Callable[[ContainerSpec], Iterator[bytes]]) -> None:
        self.crash = crash
        self.specs: list[ContainerSpec] = []
        self.more = b""

    def run(self, spec: ContainerSpec) -> Iterator[bytes]:
        self.specs.append(spec)
        if spec.argv[0].endswith("demo-fetch"):
            for name in (IMAGE, BINARY, MODULES):
                (Path(spec.binds[0].source) / name).write_bytes(b"deb")
                yield f"{name}\n".encode()
            yield self.more
        elif spec.argv[0].endswith("demo-build"):
            (Path(spec.binds[0].source) / spec.argv[3]).write_bytes(b"ELF")
        else:
            yield from self.crash(spec)


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(image, "build", lambda *_, **__: "demo:1")


def _fails(spec: ContainerSpec) -> Iterator[bytes]:
    yield b"unpacking\nvmbox-demo: FAILED: depmod 7.2.12+deb14-cloud-amd64 ended with exit status 1\n"
    raise EngineFailed("demo-crash ended with exit status 1", detail="depmod: ERROR: could not open directory")


def _dies(spec: ContainerSpec) -> Iterator[bytes]:
    yield b"Kernel panic\n"
    out = Path(spec.binds[1].source) / "out"
    out.mkdir()
    (out / "vmcore").write_bytes(b"KDUMP   ")


def test_what_fails_in_the_container_is_named_with_the_words_of_the_program(tmp_path: Path) -> None:
    engine = cast(Engine, _Engine(_fails))
    with pytest.raises(DemoFailed, match=r"cloud-amd64: depmod 7\.2\.12.* ended with exit status 1") as failed:
        demo.make_vmcore(demo.DemoSpec(profile="debian-14"), tmp_path / "out", engine=engine)
    assert failed.value.detail == "depmod: ERROR: could not open directory"


def test_the_machine_is_that_of_the_profile_unless_the_caller_wants_another(tmp_path: Path) -> None:
    engine = _Engine(_dies)
    rules = profiles.by_name("debian-14").demo
    assert rules is not None
    spec = demo.DemoSpec(profile="debian-14", kernel="linux-image-7.2.12+deb14-cloud-amd64")
    for one in (spec, replace(spec, memory=2000, crashkernel="400M")):
        demo.make_vmcore(one, tmp_path / "out", engine=cast(Engine, engine))
    fetched, first, second = engine.specs
    assert fetched.argv[1] == "linux-image-7.2.12+deb14-cloud-amd64"
    assert (first.env["MEMORY"], first.env["CRASHKERNEL"]) == (str(rules.memory), rules.crashkernel)
    assert (second.env["MEMORY"], second.env["CRASHKERNEL"]) == ("2000", "400M")
    # All packages of the kernel, and of an exact kernel the network is asked once.
    assert first.env["KERNEL"] == second.env["KERNEL"] == f"{IMAGE} {BINARY} {MODULES}"


def test_a_kernel_with_a_package_missing_is_fetched_again(tmp_path: Path) -> None:
    engine = _Engine(_dies)
    spec = demo.DemoSpec(profile="debian-14", kernel="linux-image-7.2.12+deb14-cloud-amd64")
    demo.make_vmcore(spec, tmp_path / "out", engine=cast(Engine, engine))
    (tmp_path / "cache" / "demo" / "debian-14" / MODULES).unlink()
    demo.make_vmcore(spec, tmp_path / "out", engine=cast(Engine, engine))
    assert [spec.argv[0].rpartition("/")[2] for spec in engine.specs] == ["demo-fetch", "demo-crash"] * 2


def test_that_a_kernel_has_no_debuginfo_is_said_before_it_boots(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Reporter):
        def step(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Step]:
            return QUIET.step(title, total=total, unit=unit)

        def notice(self, line: str) -> None:
            said.append(line)

    engine = _Engine(_dies)
    engine.more = b"no-debuginfo\n"
    spec = demo.DemoSpec(profile="debian-14", kernel="linux-image-7.2.12+deb14-cloud-amd64")
    # The second time its packages are at hand.
    for _ in range(2):
        demo.make_vmcore(spec, tmp_path / "out", engine=cast(Engine, engine), reporter=Listener())
        assert said.pop(0).startswith(
            "linux-image-7.2.12+deb14-cloud-amd64 7.2.12-1: Debian 14 (forky)'s package sources"
        )
        said.clear()
    assert engine.specs[-1].env["KERNEL"] == f"{IMAGE} {BINARY} {MODULES}"
    assert [spec.argv[0].rpartition("/")[2] for spec in engine.specs] == ["demo-fetch", "demo-crash", "demo-crash"]


def test_a_profile_without_a_demo_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no demo of el9") as refused:
        demo.make_vmcore(demo.DemoSpec(profile="el9"), tmp_path, engine=cast(Engine, _Engine(_dies)))
    assert "debian-14" in str(refused.value.hint)


def test_a_module_is_compiled_once_for_each_kernel_and_lies_beside_the_dump(tmp_path: Path) -> None:
    engine = _Engine(_dies)
    kernel = "linux-image-7.2.12+deb14-cloud-amd64"
    for trigger in ("use-after-free", "deadlock", "sysrq"):
        spec = demo.DemoSpec(profile="debian-14", kernel=kernel, trigger=trigger)
        demo.make_vmcore(spec, tmp_path / trigger, engine=cast(Engine, engine))
    ran = [spec.argv[0].rpartition("/")[2] for spec in engine.specs]
    assert ran == ["demo-fetch", "demo-build", "demo-crash", "demo-crash", "demo-crash"]
    _, build, first, second, third = engine.specs
    assert build.argv[1:3] == ["7.2.12+deb14-cloud-amd64", "7.2.12-1"]
    assert build.network == "host"
    assert first.env["MODULE"] == second.env["MODULE"] == build.argv[3]
    assert "slub_debug=FZPU,vmbox_packet" in first.env["APPEND"]
    assert "kernel/hung_task_panic=1" in second.env["SETTINGS"]
    assert third.env["MODULE"] == ""
    assert (tmp_path / "deadlock" / "vmbox_demo.ko").read_bytes() == b"ELF"
    assert b"CAUSE: deadlock" in (tmp_path / "deadlock" / "vmbox_demo.c").read_bytes()
    assert not (tmp_path / "sysrq" / "vmbox_demo.ko").exists()


def test_a_kernel_without_headers_is_said(tmp_path: Path) -> None:
    class NoHeaders(_Engine):
        def run(self, spec: ContainerSpec) -> Iterator[bytes]:
            if spec.argv[0].endswith("demo-build"):
                raise EngineFailed("demo-build ended with exit status 3", detail="there is no package linux-headers-x")
            return super().run(spec)

    spec = demo.DemoSpec(profile="debian-14", trigger="bug")
    with pytest.raises(DemoFailed, match="no module could be compiled") as failed:
        demo.make_vmcore(spec, tmp_path / "out", engine=cast(Engine, NoHeaders(_dies)))
    assert failed.value.detail == "there is no package linux-headers-x"


def test_every_trigger_of_the_module_is_known_and_marked_in_its_source() -> None:
    files = paths.data_dir() / "Containerfile.d" / "files"
    source = (files / "demo-trigger.c").read_text(encoding="utf-8")
    program = (files / "demo-user.c").read_text(encoding="utf-8")
    assert "/* CAUSE: futex */" in program
    for name, trigger in TRIGGERS.items():
        if name == "futex":
            continue
        assert (f'!strcmp(trigger, "{name}")' in source) == trigger.module, name
        marked = {"general-protection"}  # it faults where null-pointer does
        assert f"/* CAUSE: {name} */" in source or not trigger.module or name in marked, name


def test_no_dump_that_a_machine_has_left_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the dump goes to the working directory, which may be that of a genuine one."""
    engine = _Engine(_dies)
    (tmp_path / "vmcore").write_bytes(b"evidence")
    with pytest.raises(UsageError, match="vmcore was not made by vmbox demo, and is not replaced"):
        demo.make_vmcore(demo.DemoSpec(profile="debian-14"), tmp_path, engine=cast(Engine, engine))
    with pytest.raises(UsageError, match="Not a directory"):
        demo.make_vmcore(demo.DemoSpec(profile="debian-14"), tmp_path / "vmcore", engine=cast(Engine, engine))
    assert (engine.specs, (tmp_path / "vmcore").read_bytes()) == ([], b"evidence")
    # One of its own is.
    (tmp_path / "demo.json").touch()
    demo.make_vmcore(demo.DemoSpec(profile="debian-14"), tmp_path, engine=cast(Engine, engine))
    assert (tmp_path / "vmcore").read_bytes() == b"KDUMP   "

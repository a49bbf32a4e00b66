"""An engine that refuses to start a case: what it denied decides what is said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from sandbox.case import container
from sandbox.engine import ContainerSpec, EngineInfo, messages
from sandbox.errors import DumpUnreadable, EngineFailed, SessionFailed

SPEC = ContainerSpec(image="x", argv=["session"], name="case", env={"IDLE": "1800"})


class Engine:
    """Stands for an engine that starts no container, or one that ends at once and is removed with its log."""

    def __init__(self, said: str) -> None:
        self.said = said
        self.again: list[ContainerSpec] = []

    def start(self, _: ContainerSpec) -> NoReturn:
        messages.fail("Podman cannot start session", self.said)

    def container(self, _: str) -> None:
        return None

    def logs(self, _: str) -> NoReturn:
        messages.fail("Docker cannot read a container's log", "it is marked for removal")

    def run(self, spec: ContainerSpec) -> Iterator[bytes]:
        self.again.append(spec)
        raise EngineFailed("session ended with exit status 2", detail=self.said)
        yield b""


def _info(*, rootless: bool = False) -> EngineInfo:
    values: dict[str, Any] = {"name": "podman", "version": "4.3.1", "endpoint": "podman", "arch": "x86_64"}
    return EngineInfo(**values, rootless=rootless, limits=True, memory=1, cpus=1, local=True)


DUMP = Path("/mnt/nfs/crash/vmcore")
ABOUT_IT: Sequence[str] = (
    "crun: open `/mnt/nfs/crash/vmcore`: Permission denied: OCI permission denied",
    "error while creating mount source path\nmkdir /mnt/nfs: permission denied",
    "statfs /mnt/nfs/crash: permission denied",
)
ABOUT_ELSE: Sequence[str] = (
    "runc create failed: error setting rlimit type 7: operation not permitted: OCI permission denied",
    "crun: write `/proc/self/attr/keycreate`: Permission denied: OCI permission denied",
    "apparmor failed to apply profile: write /proc/self/attr/apparmor/exec: permission denied",
)


@pytest.mark.parametrize("said", [*ABOUT_IT, *ABOUT_ELSE])
@pytest.mark.parametrize("uid", [0, 1000])
def test_nfs_is_named_only_where_the_dump_was_denied(said: str, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    with pytest.raises(DumpUnreadable if said in ABOUT_IT else EngineFailed) as refused:
        container._start_container(Engine(said), SPEC, DUMP, _info())  # type: ignore[arg-type]  # a stand-in
    assert ("NFS" in refused.value.message) == (said in ABOUT_IT)
    with pytest.raises(EngineFailed):
        container._start_container(Engine(said), SPEC, DUMP, _info(rootless=True))  # type: ignore[arg-type]  # a stand-in


def test_a_dump_that_root_reads_is_on_no_such_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vmcore").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    engine = Engine(f"crun: open `{tmp_path}/vmcore`: Permission denied: OCI permission denied")
    with pytest.raises(EngineFailed):
        container._start_container(engine, SPEC, tmp_path / "vmcore", _info())  # type: ignore[arg-type]  # a stand-in


def test_a_limit_and_a_security_module_have_hints_of_their_own() -> None:
    for said, hint in (("setting rlimit type 7", "default_ulimits"), ("AppArmor enabled on system", "aa-status")):
        with pytest.raises(EngineFailed) as refused:
            messages.fail("Podman cannot start session", said)
        assert hint in refused.value.hint


def test_the_words_of_a_case_that_ended_at_once_are_shown(tmp_path: Path) -> None:
    for name in ("out", "ctl"):
        os.mkfifo(tmp_path / name)
    engine = Engine("session: 35: cannot open /run/vmbox/in: Permission denied")
    with pytest.raises(SessionFailed) as ended:
        container._await_ready(tmp_path, "feed", engine, "0123", SPEC)  # type: ignore[arg-type]  # a stand-in
    assert ended.value.detail == engine.said
    (again,) = engine.again
    assert (again.name, again.auto_remove, again.env["IDLE"]) == (None, False, "5")

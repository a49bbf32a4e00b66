"""Docker with userns-remap, as the CIS benchmark has it, and rootless without limits: what is asked of its API. Its
answers are those of Docker 20.10. (Real ones: integration/engine/test_hostile_configuration.)
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.engine import ContainerSpec, created, docker_created
from sandbox.engine.docker import DockerEngine


class Api:
    def __init__(self, options: list[str], **more: object) -> None:
        self._options = options
        self._more = more
        self.asked: dict[str, Any] = {}

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": self._options, "ServerVersion": "20.10.24", "Architecture": "x86_64", "NCPU": 2} | {
            "MemTotal": 1 << 30,
            **self._more,
        }

    def create_host_config(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        return {}

    def create_container(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"Id": "0123"}

    def build(self, **asked: Any) -> Iterator[dict[str, str]]:
        self.asked = asked
        return iter(())


@pytest.mark.parametrize("hardened", [True, False])
@pytest.mark.parametrize("remaps", [True, False])
def test_no_container_of_vmbox_is_remapped(remaps: bool, hardened: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(["name=seccomp,profile=default", *(["name=userns"] if remaps else [])])
    engine = _engine(api, monkeypatch)
    assert engine.info().remaps_users == remaps
    engine._create(ContainerSpec(image="x", argv=["sh"], hardened=hardened, network="host"), auto_remove=True)
    assert api.asked["userns_mode"] == ("host" if remaps else None)
    # The builder cannot be told, and refuses the host's network.
    assert list(engine.build(io.BytesIO(), "x", labels={})) == []
    assert api.asked["network_mode"] == (None if remaps else "host")


@pytest.mark.parametrize("limits", [True, False])
def test_each_process_is_limited_where_no_container_can_be(limits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rootless Docker on cgroup v1 makes a container without the limits that it was asked for."""
    api = Api(["name=rootless"], MemoryLimit=limits, PidsLimit=limits, CgroupVersion="1")
    engine = _engine(api, monkeypatch)
    engine._create(ContainerSpec(image="x", argv=["sh"], memory=1 << 30), auto_remove=True)
    hard = {one["Name"]: one["Hard"] for one in api.asked["ulimits"]}
    assert hard == {"nice": 0, "rtprio": 0, **({} if limits else {"data": 1 << 30})}
    host = {"Ulimits": api.asked["ulimits"], "CapDrop": ["ALL"], "NetworkMode": "none", "ReadonlyRootfs": True}
    host |= {"SecurityOpt": ["no-new-privileges"], "MaskedPaths": ["/proc/kcore"], "Privileged": False}
    made = docker_created.of(
        {"HostConfig": host, "Config": {}, "Mounts": []}, seccomp="default", cgroup_namespaces=False
    )
    wrong = list(created._limits(made, ContainerSpec(image="x", argv=["sh"], memory=1 << 30), limits=limits))
    assert bool(wrong) == limits  # with limits that can be had, an ulimit does not do


def _engine(api: Api, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    engine = DockerEngine.__new__(DockerEngine)
    engine._steps = {}
    for name, value in {"_api": api, "_endpoint": "unix:///x", "_info": None, "_service": None}.items():
        setattr(engine, name, value)
    monkeypatch.setattr(engine, "_refuse_unless_as_asked", lambda *_: None)
    return engine

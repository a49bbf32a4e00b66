"""Docker with userns-remap in daemon.json, as the CIS benchmark has it. A daemon of that kind needs subordinate ids of
the host, so its answers are made here; they are those of Docker 20.10.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.engine import ContainerSpec
from sandbox.engine.docker import DockerEngine


class Api:
    def __init__(self, options: list[str]) -> None:
        self._options = options
        self.asked: dict[str, Any] = {}

    def info(self) -> dict[str, Any]:
        return {"SecurityOptions": self._options, "ServerVersion": "20.10.24", "Architecture": "x86_64", "NCPU": 2} | {
            "MemTotal": 1 << 30
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
    engine = DockerEngine.__new__(DockerEngine)
    api = Api(["name=seccomp,profile=default", *(["name=userns"] if remaps else [])])
    for name, value in {"_api": api, "_endpoint": "unix:///x", "_info": None, "_service": None}.items():
        setattr(engine, name, value)
    monkeypatch.setattr(engine, "_refuse_unless_as_asked", lambda *_: None)
    engine._create(ContainerSpec(image="x", argv=["sh"], hardened=hardened, network="host"), auto_remove=True)
    assert api.asked["userns_mode"] == ("host" if remaps else None)
    # The builder cannot be told, and refuses the host's network.
    assert list(engine.build(io.BytesIO(), "x", labels={})) == []
    assert api.asked["network_mode"] == (None if remaps else "host")

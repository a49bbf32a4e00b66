"""An engine on another host does not see this host's dump: the error is immediate and has a hint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from sandbox.case.opening import _refuse_remote
from sandbox.errors import EngineFailed


@dataclass
class Elsewhere:
    """A fake engine that only has an address."""

    endpoint: str
    local: bool

    def info(self) -> SimpleNamespace:
        return SimpleNamespace(endpoint=self.endpoint, local=self.local)


@pytest.mark.parametrize("endpoint", ["ssh://user@lab7/run/podman.sock", "tcp://lab7:2376"])
def test_refused(endpoint: str) -> None:
    with pytest.raises(EngineFailed, match="on another host") as caught:
        _refuse_remote(Elsewhere(endpoint, local=False), Path("/var/crash/vmcore"))  # type: ignore[arg-type]
    assert "vmbox run --engine" in caught.value.hint


@pytest.mark.parametrize(("endpoint", "local"), [("unix:///run/docker.sock", True), ("podman", True)])
def test_an_engine_of_this_host_is_accepted(endpoint: str, local: bool) -> None:
    _refuse_remote(Elsewhere(endpoint, local), Path("/var/crash/vmcore"))  # type: ignore[arg-type]

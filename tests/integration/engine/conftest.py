"""A base image with only Debian's static busybox: no registry, no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import contract
from engines import EngineUnderTest
from sandbox.engine import Engine


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contract.make_rootfs(tmp_path_factory.mktemp("rootfs") / "rootfs.tar")


@pytest.fixture(scope="session")
def base(engine: EngineUnderTest, rootfs: Path) -> Iterator[str]:
    """Reference of the base image on this engine."""
    for left in engine.engine.images({"vmbox.test": ""}):  # of a run that was killed
        engine.engine.remove_image(left.id)
    ref = contract.import_base(engine.engine, rootfs)
    yield ref
    engine.engine.remove_image(ref)


@pytest.fixture
def api(engine: EngineUnderTest) -> Iterator[Engine]:
    """The engine; a test that leaves a container behind fails."""
    yield engine.engine
    left = engine.engine.containers({"vmbox.test": ""})
    for container in left:
        engine.engine.remove(container.id)
    assert left == []

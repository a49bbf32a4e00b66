"""Images between engines: through a registry on loopback, and as archives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import EngineUnderTest
from registries import registry
from sandbox.engine import ContainerSpec, Engine
from sandbox.errors import EngineFailed, ImageNotInRegistry

LABELS = {"vmbox.test": "registry"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as at:
        yield at


def _hello(engine: Engine, ref: str) -> bytes:
    return b"".join(engine.run(ContainerSpec(image=ref, argv=["/bin/echo", "hello"], labels=LABELS)))


def test_push_and_pull(api: Engine, base: str, address: str) -> None:
    ref = f"{address}/vmbox/pushed:1"
    api.tag(base, ref)
    try:
        assert list(api.push(ref))
        api.remove_image(ref)
        assert api.image(ref) is None
        list(api.pull(ref))
        image = api.image(ref)
        assert image is not None
        assert image.labels["vmbox.quoted"] == 'a "b" $c'
        assert image.arch == api.info().arch
        assert _hello(api, ref) == b"hello\n"
    finally:
        api.remove_image(ref)


def test_a_missing_image_in_the_registry(api: Engine, base: str, address: str) -> None:
    with pytest.raises(ImageNotInRegistry, match="manifest unknown"):
        list(api.pull(f"{address}/vmbox/nothing:1"))
    api.tag(base, "127.0.0.1:1/vmbox/x:1")
    try:
        with pytest.raises(EngineFailed, match="cannot"):
            list(api.push("127.0.0.1:1/vmbox/x:1"))
    finally:
        api.remove_image("127.0.0.1:1/vmbox/x:1")


def test_from_one_engine_to_another(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, rootfs: Path, address: str
) -> None:
    docker, podman = docker_engine.engine, podman_rootless.engine
    for source, target, name in ((docker, podman, "there"), (podman, docker, "back")):
        ref = f"{address}/vmbox/{name}:1"
        source.import_rootfs(rootfs, ref, LABELS)
        try:
            list(source.push(ref))
            list(target.pull(ref))
            assert _hello(target, ref) == b"hello\n"
        finally:
            source.remove_image(ref)
            target.remove_image(ref)


def test_saved_by_one_engine_loaded_by_the_other(
    docker_engine: EngineUnderTest, podman_rootless: EngineUnderTest, rootfs: Path, tmp_path: Path
) -> None:
    docker, podman = docker_engine.engine, podman_rootless.engine
    for source, target in ((docker, podman), (podman, docker)):
        ref = "localhost/vmbox/test-saved:1"
        source.import_rootfs(rootfs, ref, LABELS)
        try:
            with (tmp_path / "saved.tar").open("wb") as file:
                for piece in source.save(ref):
                    file.write(piece)
            assert target.load(tmp_path / "saved.tar") == [ref]
            assert _hello(target, ref) == b"hello\n"
        finally:
            source.remove_image(ref)
            target.remove_image(ref)


def test_load_of_a_file_that_is_not_an_archive(api: Engine) -> None:
    with pytest.raises(EngineFailed):
        api.load(io.BytesIO(b"not an archive" * 1000))

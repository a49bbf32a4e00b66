"""The engine in memory keeps the contract of the real ones, as far as that needs no kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import contract
from contract import *  # noqa: F403 - pytest runs the tests that a module has
from memory_engine import MemoryEngine, containerfile
from memory_process import Running
from sandbox.engine import Bind, ContainerSpec, Image
from sandbox.errors import EngineFailed, ImageBuildFailed, ImageNotInRegistry, PathNotFound


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return contract.make_rootfs(tmp_path_factory.mktemp("rootfs") / "rootfs.tar")


@pytest.fixture
def api() -> Iterator[MemoryEngine]:
    engine = MemoryEngine()
    yield engine
    left = engine.containers({})
    engine.end()
    assert left == []


@pytest.fixture
def base(api: MemoryEngine, rootfs: Path) -> str:
    return contract.import_base(api, rootfs)


def test_a_missing_path_to_bind(api: MemoryEngine, base: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "nothing", tmp_path / "file" / "below"):
        with pytest.raises(PathNotFound):
            api.start(ContainerSpec(image=base, argv=["/bin/true"], binds=[Bind(source=place, target="/case")]))


def test_a_build_labels_and_says_what_it_runs(api: MemoryEngine, base: str) -> None:
    ref = "localhost/vmbox/test-build:1"
    context = containerfile("ARG BASE\nFROM ${BASE}\nCOPY files/hello /hello\nRUN one; \\\n  two\n")
    lines = list(api.build(context, ref, labels={"k": "v w"}, args={"BASE": base}))
    assert lines[-1] == "STEP 4: RUN one;    two"
    assert [one.tags for one in api.images({"k": "v w"})] == [(ref,)]
    api.remove_image(ref)
    assert api.image(ref) is None
    api.remove_image(ref)


def test_a_build_whose_command_fails_leaves_nothing(base: str, rootfs: Path) -> None:
    def fail(ref: str, command: str) -> Iterator[str]:
        yield "about to fail"
        raise ImageBuildFailed("why")

    api = MemoryEngine(on_run=fail)
    contract.import_base(api, rootfs)
    images = {image.id for image in api.images({})}
    with pytest.raises(ImageBuildFailed) as caught:
        list(api.build(containerfile(f"FROM {base}\nRUN exit 5\n"), "localhost/vmbox/test-fail:1", labels={}))
    assert "\n" not in caught.value.message
    assert (caught.value.detail or "").splitlines()[-2:] == ["about to fail", "why"]
    assert {image.id for image in api.images({})} == images
    assert api.image("localhost/vmbox/test-fail:1") is None


def test_a_registry_has_what_it_has() -> None:
    there = "registry.example/kernel:1"
    image = Image(id="x", tags=(there,), labels={"a": "b"}, size=1, arch="aarch64")
    api = MemoryEngine(registries={"registry.example": {there: image}})
    list(api.pull(there))
    pulled = api.image(there)
    assert pulled is not None
    assert (pulled.labels, pulled.arch) == ({"a": "b"}, "aarch64")
    api.tag(there, "localhost/kernel:1")
    api.remove_image(there)
    assert api.image(there) is None
    assert api.image("localhost/kernel:1") is not None
    with pytest.raises(ImageNotInRegistry):
        list(api.pull("registry.example/other:1"))


def test_what_is_saved_is_loaded(api: MemoryEngine, base: str, tmp_path: Path) -> None:
    before = api.image(base)
    (tmp_path / "archive").write_bytes(b"".join(api.save(base)))
    api.remove_image(base)
    assert api.load(tmp_path / "archive") == [base]
    after = api.image(base)
    assert before is not None
    assert after is not None
    assert (after.labels, after.arch, after.tags) == (before.labels, before.arch, before.tags)
    with pytest.raises(EngineFailed):
        api.load(Path(__file__))


def test_a_function_is_the_process_of_a_container(tmp_path: Path) -> None:
    def program(running: Running) -> int:
        running.place("/run/vmbox/said").write_text(running.env["WORD"])
        running.killed.wait()
        return 137

    api = MemoryEngine(programs={"/session": program})
    api.have("image:1")
    spec = ContainerSpec(
        image="image:1", argv=["/session"], env={"WORD": "hello"}, binds=[Bind(source=tmp_path, target="/run/vmbox")]
    )
    container = api.start(spec)
    contract.wait_for((tmp_path / "said").exists)
    assert container.running
    api.remove(container.id)
    assert api.container(container.id) is None
    assert (tmp_path / "said").read_text() == "hello"

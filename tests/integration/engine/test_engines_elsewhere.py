"""Engines behind ssh and behind TLS: the complete connection, and the errors if it is refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import EngineUnderTest
from remotes import Behind, Sshd, docker_behind_tls, sshd
from sandbox.engine import ContainerSpec, Engine, connect
from sandbox.errors import ConfigurationError, EngineError, EngineFailed, EngineNotFound, EnginePermission

REF = "localhost/vmbox/test-remote:1"
LABELS = {"vmbox.test": "remote"}


def _work(engine: Engine, rootfs: Path) -> None:
    """Send an image, run a container with much output and an exit status, and talk to a running container."""
    engine.import_rootfs(rootfs, REF, LABELS)
    try:
        flood = ContainerSpec(image=REF, argv=["/bin/sh", "-c", "yes | head -c 3000000"], labels=LABELS)
        assert sum(map(len, engine.run(flood))) == 3_000_000
        with pytest.raises(EngineFailed, match="7"):
            list(engine.run(ContainerSpec(image=REF, argv=["/bin/sh", "-c", "exit 7"], labels=LABELS)))
        running = engine.start(ContainerSpec(image=REF, argv=["/bin/sleep", "100"], labels=LABELS))
        try:
            with engine.exec(running.id, ["cat"], stdin=True) as cat:
                cat.write(b"there and back\n")
                cat.close_stdin()
                said = b"".join(iter(cat.read, b""))
                assert (said, cat.exit_code()) == (b"there and back\n", 0)
        finally:
            engine.remove(running.id)
    finally:
        engine.remove_image(REF)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, docker_engine: EngineUnderTest) -> Iterator[Behind]:
    with docker_behind_tls(tmp_path_factory.mktemp("tls")) as behind:
        yield behind


@pytest.fixture
def trusted(secured: Behind, monkeypatch: pytest.MonkeyPatch) -> Behind:
    for name, value in secured.env().items():
        monkeypatch.setenv(name, value)
    return secured


def test_work_behind_tls(trusted: Behind, rootfs: Path) -> None:
    with contextlib.closing(connect(trusted.url)) as engine:
        info = engine.info()
        assert (info.name, info.endpoint, info.remote, info.local) == ("docker", trusted.url, True, False)
        _work(engine, rootfs)


def test_tls_without_certificates(secured: Behind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EnginePermission, match="requires TLS") as caught:
        connect(secured.url)
    assert "DOCKER_CERT_PATH" in caught.value.hint
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"ca.pem, cert.pem, key.pem cannot be read"):
        connect(secured.url)
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        connect(secured.url)


@pytest.mark.parametrize("stranger", ["the engine", "the client"])
def test_tls_with_another_authority(
    trusted: Behind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stranger: str
) -> None:
    """An engine with a certificate of another authority is refused, and so is such a client."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        strange = (name == "ca.pem") == (stranger == "the engine")
        (tmp_path / name).write_bytes(((trusted.strangers if strange else trusted.certificates) / name).read_bytes())
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EnginePermission, match="do not trust each other"):
        connect(trusted.url)


def test_the_engine_is_always_verified(trusted: Behind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For docker-py, $DOCKER_CERT_PATH alone means TLS without verification of the engine; not for vmbox."""
    monkeypatch.delenv("DOCKER_TLS_VERIFY")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_bytes((trusted.certificates / name).read_bytes())
    (tmp_path / "ca.pem").write_bytes((trusted.strangers / "ca.pem").read_bytes())
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EnginePermission):
        connect(trusted.url)


@pytest.fixture
def server(
    podman_rootless: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sshd]:
    with sshd(podman_rootless, podman_rootless.directory()) as one:
        monkeypatch.setenv("PATH", f"{one.directory}/bin:{os.environ['PATH']}")
        yield one


def _url(server: Sshd, under_test: EngineUnderTest) -> str:
    return f"ssh://{server.target}{under_test.url.removeprefix('unix://')}"


def test_work_behind_ssh_until_it_is_cut(server: Sshd, podman_rootless: EngineUnderTest, rootfs: Path) -> None:
    url = _url(server, podman_rootless)
    with contextlib.closing(connect(url)) as engine:
        info = engine.info()
        assert (info.name, info.endpoint, info.rootless, info.local) == ("podman", url, True, False)
        _work(engine, rootfs)
        engine.import_rootfs(rootfs, REF, LABELS)
        kept = engine.start(ContainerSpec(image=REF, argv=["/bin/sleep", "100"], labels=LABELS))
        server.cut()
        with pytest.raises(EngineError) as caught:
            engine.containers({})
        assert "\n" not in caught.value.message
    # The container there continues without us.
    found = podman_rootless.engine.container(kept.id)
    assert found is not None
    assert found.running
    podman_rootless.engine.remove(kept.id)
    podman_rootless.engine.remove_image(REF)


def test_ssh_without_an_engine_or_a_host_key(server: Sshd, podman_rootless: EngineUnderTest) -> None:
    with pytest.raises(EngineNotFound, match=r"no engine answers at /nowhere\.sock"):
        connect(f"ssh://{server.target}/nowhere.sock")
    (server.directory / "known").write_text("")
    with pytest.raises(EngineFailed, match="Host key verification failed"):
        connect(_url(server, podman_rootless))

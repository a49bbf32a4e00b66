"""An engine that a docker context names and that does not answer: the context is named."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.engine import detection
from sandbox.errors import ConfigurationError, EngineNotFound


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The docker command's own directory, with a context "down" whose engine does not run."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST", "VMBOX_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(detection.shutil, "which", lambda *_, **__: None)
    _context(tmp_path, "down", tmp_path / "no.sock")
    return tmp_path


def _context(place: Path, name: str, sock: Path) -> None:
    meta = place / "contexts" / "meta" / name
    meta.mkdir(parents=True)
    told = {"Name": name, "Endpoints": {"docker": {"Host": f"unix://{sock}"}}}
    (meta / "meta.json").write_text(json.dumps(told))


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Path]:
    """A socket that answers as a Podman does."""
    place = tmp_path / "up.sock"
    body = json.dumps({"Components": [{"Name": "Podman Engine"}]}).encode()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        threading.Thread(target=serve, daemon=True).start()
        yield place
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("name", ["docker", None])
def test_a_context_that_was_chosen_and_is_down_is_named(docker: Path, name: str | None) -> None:
    (docker / "config.json").write_text(json.dumps({"currentContext": "down"}))
    if name is None and Path("/run/docker.sock").exists():
        pytest.skip("an engine of this host answers in its place")
    with pytest.raises(EngineNotFound, match=r"docker context down") as found:
        detection.detect(name)
    assert "docker context use default" in found.value.hint


@pytest.mark.parametrize("name", ["docker", None])
def test_a_context_of_the_environment_is_never_passed_over(
    docker: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "down")
    with pytest.raises(EngineNotFound, match=r"\$DOCKER_CONTEXT down") as found:
        detection.detect(name)
    assert "unset DOCKER_CONTEXT" in found.value.hint
    monkeypatch.setenv("DOCKER_CONTEXT", "nosuch")
    with pytest.raises(ConfigurationError, match=r"\$DOCKER_CONTEXT nosuch: there is no such docker context"):
        detection.detect(name)


def test_without_a_wish_another_engine_may_answer(
    docker: Path, answering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docker / "config.json").write_text(json.dumps({"currentContext": "down"}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(docker))
    monkeypatch.setattr(detection, "_podman_candidates", lambda: iter([_candidate(answering)]))
    monkeypatch.setattr(detection, "_adapter", lambda kind, url, **_: (kind, url))
    kind, _url = detection.detect(None)  # type: ignore[misc] # the adapter is left out
    assert kind in {"podman", "docker"}


def _candidate(place: Path) -> detection._Candidate:
    return detection._Candidate(url=f"unix://{place}", why="Podman's socket")


def test_the_default_context_is_no_address_of_its_own(docker: Path) -> None:
    for content in (
        "{}",
        "null",
        "no json",
        json.dumps({"currentContext": "default"}),
        json.dumps({"currentContext": 3}),
    ):
        (docker / "config.json").write_text(content)
        assert detection._docker_context() is None

"""Verification of engines behind tcp://. The TLS is real; a fake of dockerd answers GET /version."""

from __future__ import annotations

import http.server
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

import certificates
from listening import listening
from sandbox.engine import connect
from sandbox.errors import ConfigurationError, EnginePermission


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("tls") / "strangers")


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        about = {"Components": [{"Name": "Engine"}], "ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}
        info = {"ServerVersion": "20.10", "Architecture": "x86_64", "Name": "elsewhere", "MemTotal": 1, "NCPU": 1}
        body = json.dumps(info if self.path.endswith("/info") else about).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url(ours: Path) -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as little as dockerd asks for
    context.load_cert_chain(ours / "cert.pem", ours / "key.pem")
    with listening(_Answers, tls=context) as port:
        yield f"tcp://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("bundle", [False, True])
def test_each_side_verifies_the_other(
    url: str, ours: Path, strangers: Path, monkeypatch: pytest.MonkeyPatch, *, bundle: bool
) -> None:
    """Also at a site that has another authority for all other servers."""
    if bundle:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(strangers / "ca.pem"))
    monkeypatch.setenv("DOCKER_CERT_PATH", str(ours))
    engine = connect(url)
    info = engine.info()
    assert (info.name, info.local) == ("docker", False)
    engine.close()


def test_without_certificates(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EnginePermission, match="requires TLS") as caught:
        connect(url)
    assert "DOCKER_CERT_PATH" in caught.value.hint
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"ca\.pem, cert\.pem, key\.pem cannot be read"):
        connect(url)
    for name in certificates.FILES:
        (tmp_path / name).write_text("not a certificate")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        connect(url)


@pytest.mark.parametrize("verify", ["1", ""])
@pytest.mark.parametrize("stranger", ["engine", "client"])
def test_certificates_of_another_authority_are_refused(  # noqa: PLR0917 - fixtures are passed by name
    url: str, ours: Path, strangers: Path, stranger: str, verify: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An engine that another authority vouches for is not spoken to, nor a client listened to; not even where the
    environment would have docker-py not verify: $DOCKER_CERT_PATH without $DOCKER_TLS_VERIFY.
    """
    for name in certificates.FILES:
        strange = (name == "ca.pem") == (stranger == "engine")
        (tmp_path / name).write_bytes(((strangers if strange else ours) / name).read_bytes())
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_TLS_VERIFY", verify)
    with pytest.raises(EnginePermission, match="do not trust each other"):
        connect(url)

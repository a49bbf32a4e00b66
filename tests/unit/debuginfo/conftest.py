from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import archives
import certificates
from archives import Archive
from debuginfo_bench import Bench, forget_connections
from sandbox.debuginfo import download


@pytest.fixture(scope="session")
def small_package() -> bytes:
    return archives.deb({archives.PATH: archives.vmlinux()})


@pytest.fixture(autouse=True, scope="session")
def power_that_lasts() -> Iterator[None]:
    """What the cache would lose without power is not tested here, and a busy disk makes each of these calls wait."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def bench(tmp_path: Path, small_package: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(download, "FIRST_WAIT", 0.001)
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    with archives.serve(Archive(files={})) as archive:
        bench = Bench(directory=tmp_path, archive=archive, package=b"")
        bench.put(small_package)
        yield bench


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and with cert.pem and key.pem for 127.0.0.1 from that authority."""
    return certificates.make(tmp_path_factory.mktemp("tls") / "made")


@pytest.fixture
def tls_archive(bench: Bench, tls_files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An archive with the bench's files, and with a certificate that is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls_files / "cert.pem", tls_files / "key.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_files / "ca.pem"))
    monkeypatch.setattr(download, "_WITHOUT_TLS", set())
    forget_connections()
    with archives.serve(Archive(files=bench.archive.files), tls=context) as archive:
        yield archive
    forget_connections()


@pytest.fixture
def over_tls(bench: Bench, tls_archive: Archive) -> None:
    """The bench's archive has TLS."""
    bench.archive = tls_archive


@pytest.fixture
def make_vmlinux(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "vmlinux", **how: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(archives.vmlinux(**how))  # type: ignore[arg-type]
        return path

    return make

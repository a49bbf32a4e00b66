from __future__ import annotations

import pytest

from sandbox.errors import ConfigurationError
from sandbox.host.mirrors import rewrite


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("http://deb.debian.org/debian/pool/x.deb", "http://127.0.0.1:8080/debian/pool/x.deb"),
        ("deb http://deb.debian.org/debian-security x main", "deb http://security.example x main"),
        ("deb [a=b] http://deb.debian.org x", "deb [a=b] http://127.0.0.1:8080 x"),
        ("http://deb.debian.organic/debian", "http://deb.debian.organic/debian"),
        ("docker.io/library/debian:12", "registry.example:5000/hub/library/debian:12"),
        ("mydocker.io/library/debian:12", "mydocker.io/library/debian:12"),
        ("http://127.0.0.1:8080/x", "http://loop.example/x"),
    ],
)
def test_rewrite(monkeypatch: pytest.MonkeyPatch, before: str, after: str) -> None:
    monkeypatch.setenv(
        "VMBOX_MIRRORS",
        "http://deb.debian.org=http://127.0.0.1:8080/ docker.io=registry.example:5000/hub\n"
        "http://deb.debian.org/debian-security=http://security.example http://127.0.0.1:8080=http://loop.example",
    )
    assert rewrite(before) == after


def test_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    assert rewrite("http://deb.debian.org/") == "http://deb.debian.org/"


@pytest.mark.parametrize("setting", ["http://deb.debian.org", "=http://x", "http://x="])
def test_nonsense(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("VMBOX_MIRRORS", setting)
    with pytest.raises(ConfigurationError):
        rewrite("x")

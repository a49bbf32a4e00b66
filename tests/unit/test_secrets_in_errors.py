"""Passwords in addresses are in no error that names the address: not with a slash, which ends the host of a URL. Nor do
images keep them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sandbox import profiles
from sandbox.case import self_contained
from sandbox.debuginfo import download
from sandbox.engine import connect
from sandbox.errors import VmboxError
from sandbox.host import config
from sandbox.image import bootstrap, containerfile
from sandbox.image.build import build
from sandbox.image.package_sources import package_sources, refuse_logins
from sandbox.remote.naming import named

LOGINS = ["user:hunter2", "user:hunter/2"]


def _said(call: Callable[[], object]) -> str:
    with pytest.raises(VmboxError) as caught:
        call()
    return f"{caught.value.message} {caught.value.hint} {caught.value.detail or ''}"


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("scheme", ["http", "https", "s3", "sftp"])
def test_of_a_dump(scheme: str, login: str) -> None:
    assert "hunter" not in _said(lambda: named(f"{scheme}://{login}@host:port/vmcore"))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("scheme", ["ssh", "tcp"])
def test_of_an_engine(scheme: str, login: str) -> None:
    assert "hunter" not in _said(lambda: connect(f"{scheme}://{login}@127.0.0.1:port/"))


def test_of_an_engine_that_does_not_answer() -> None:
    assert "hunter" not in _said(lambda: connect("tcp://user:hunter2@127.0.0.1:1"))


@pytest.mark.parametrize(
    "address", ["http://user:hunter/2@127.0.0.1:1", "http://user:hunter2@127.0.0.1:port", "odd://user:hunter2@h"]
)
def test_of_a_proxy(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("https_proxy", address)
    assert "hunter" not in _said(download.new_client)


@pytest.mark.parametrize("login", LOGINS)
def test_of_a_mirror(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    monkeypatch.setenv("VMBOX_MIRRORS", f"http://{login}@mirror.example")
    assert "hunter" not in _said(config.current)


@pytest.mark.parametrize("login", [*LOGINS, "https://user:hunter2", "https://user:hunter/2"])
def test_of_a_registry(login: str) -> None:
    """An image's reference has no user, and is shown: in manifests and by engines."""
    said = _said(lambda: self_contained.remote_reference("localhost/vmbox/el9:1", f"{login}@registry.example"))
    assert "registry.example is no registry, as it is given" in said
    assert "hunter" not in said


class _Bare:
    """An engine without images, which is asked for nothing more."""

    def image(self, ref: str) -> None:
        del ref


@pytest.mark.parametrize(
    ("profile", "mirrored"), [("debian-12", "http://deb.debian.org"), ("el9", "https://dl.rockylinux.org")]
)
def test_no_image_keeps_the_login_of_a_mirror(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, mirrored: str
) -> None:
    """Cases read the files of their image, and images are pushed to registries."""
    recipe = containerfile.of_profile(profiles.by_name(profile))
    refuse_logins(containerfile.context(recipe))
    settings = config.current()
    monkeypatch.setattr(config, "current", lambda: replace(settings, mirrors={mirrored: "http://user:hunter2@mirror"}))
    kept = b"".join(package_sources(profiles.by_name(profile)).values())
    assert b"hunter2" in kept, "the profile has another mirror by now"
    engine: Any = _Bare()
    recipe = containerfile.of_profile(profiles.by_name(profile))
    said = _said(lambda: build(recipe, engine, base=lambda: pytest.fail("it is built")))
    assert "an image would keep" in said
    assert "hunter" not in said
    how = profiles.by_name(profile).base.bootstrap
    if how is not None and how.tool == "mmdebstrap":
        assert "an image would keep" in _said(lambda: bootstrap._mmdebstrap(how, tmp_path / "root.tar", None))


@pytest.mark.parametrize("profile", sorted(profiles.load()))
def test_what_is_no_login_is_built(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    settings = config.current()
    monkeypatch.setattr(config, "current", lambda: replace(settings, mirrors={}))
    monkeypatch.setattr("sandbox.image.package_sources.apt_settings", tuple)
    refuse_logins(containerfile.context(containerfile.of_profile(profiles.by_name(profile))))

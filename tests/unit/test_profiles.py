from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import paths, profiles
from sandbox.errors import ConfigurationError, UnknownKernel
from sandbox.model import Vmcore

NEW = """
title = "Debian 99"
classes = [{claim}]
{extra}
[base]
images = ["registry.example/debian:99"]
[image]
fragments = ["base"]
[crash]
version = "10.0"
"""


@pytest.fixture(autouse=True)
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A configuration directory of the test's own."""
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    (tmp_path / "images").mkdir()
    profiles.load.cache_clear()
    yield tmp_path / "images"
    profiles.load.cache_clear()


def _dump(release: str | None, version: str | None = None) -> Vmcore:
    return Vmcore(path=Path("vmcore"), format="elf", size=1, release=release, utsname_version=version)


@pytest.mark.parametrize(
    ("release", "home", "image"),
    [
        ("5.10.0-32-amd64", "debian-11", "debian-11"),
        ("6.1.0-50-cloud-amd64", "debian-12", "debian-12"),
        ("6.12.94+deb13-cloud-amd64", "debian-13", "debian-13"),
        ("6.12.95+deb12-cloud-amd64", "debian-12", "debian-14"),
        ("6.1.0-0.deb11.21-amd64", "debian-11", "debian-14"),
        ("7.2.11+deb13-cloud-amd64", "debian-13", "debian-14"),
        ("7.2.13+deb14-cloud-amd64", "debian-14", "debian-14"),
    ],
)
def test_debian_kernels_find_their_profile(release: str, home: str, image: str) -> None:
    selection = profiles.select(_dump(release))
    assert (selection.home.name, selection.image.name) == (home, image)
    if home != image:
        assert "knows kernels up to" in selection.reason


def test_unknown_kernel() -> None:
    with pytest.raises(UnknownKernel, match=r"no profile knows kernel 9\.9\.9-nobody"):
        profiles.select(_dump("9.9.9-nobody"))
    with pytest.raises(UnknownKernel, match="does not say which kernel"):
        profiles.select(_dump(None))


def test_override_chooses_the_image_and_leaves_the_home() -> None:
    selection = profiles.select(_dump("6.1.0-50-cloud-amd64"), override="debian-13")
    assert (selection.home.name, selection.image.name) == ("debian-12", "debian-13")
    with pytest.raises(ConfigurationError, match="no profile debian-77"):
        profiles.select(_dump("6.1.0-50-cloud-amd64"), override="debian-77")


def test_a_new_major_is_one_file(own_profiles: Path) -> None:
    (own_profiles / "debian-99.toml").write_text(NEW.format(claim='"debian:99"', extra='releases = ["-mine$"]'))
    assert profiles.select(_dump("9.9.9-mine")).image.title == "Debian 99"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NEW.format(claim='"debian:99"', extra="colour = 1"), "unknown key colour"),
        (NEW.format(claim='"debian:99"', extra="").replace("fragments", "fragmnets"), "unknown key image.fragmnets"),
        (NEW.format(claim='"debian:99"', extra="").replace('version = "10.0"', "version = 10"), "must be a string"),
        (NEW.format(claim='"debian:99"', extra="").replace('version = "10.0"', ""), "lacks version"),
        (NEW.format(claim="1", extra=""), "must be a list of strings"),
        ("title = 3 = 4", "debian-99.toml"),
        ("title = 'x'", r"needs a table \[base\]"),
        (NEW.format(claim='"debian:12"', extra=""), "both claim debian:12"),
    ],
)
def test_mistakes_are_named(own_profiles: Path, text: str, message: str) -> None:
    (own_profiles / "debian-99.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        profiles.load()


def test_fragments_and_scripts_that_profiles_name_exist() -> None:
    fragments = paths.data_dir() / "Containerfile.d"
    for profile in profiles.load().values():
        for name in profile.image.fragments:
            assert (fragments / name).is_file(), (profile.name, name)
        if profile.debuginfo and profile.debuginfo.ask:
            assert (fragments / "files" / profile.debuginfo.ask).is_file()

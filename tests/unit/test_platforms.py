"""Dumps of other architectures: the platform of their crash, and the errors if it cannot be run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from engines import INFO
from sandbox import image, profiles
from sandbox.errors import BaseImageUnavailable, EmulationMissing
from sandbox.host import checks
from sandbox.image import bootstrap, package_sources
from sandbox.profiles import platforms
from sandbox.progress import QUIET


def test_which_architectures_are_foreign() -> None:
    assert platforms.foreign_arch("x86_64", INFO) is None
    assert platforms.foreign_arch(None, INFO) is None
    assert platforms.foreign_arch("riscv64", INFO) is None
    assert platforms.foreign_arch("aarch64", INFO) == "aarch64"


def test_which_architectures_can_be_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "emulated", lambda: (["aarch64"], ["ppc64le", "s390x"]))
    assert platforms.require_emulation("x86_64", INFO) is None
    assert platforms.require_emulation("aarch64", INFO) == "aarch64"
    assert platforms.require_emulation("x86_64", dataclasses.replace(INFO, arch="aarch64", local=False)) == "x86_64"
    # On another host it is only known after a try.
    assert platforms.require_emulation("s390x", dataclasses.replace(INFO, local=False)) == "s390x"
    with pytest.raises(EmulationMissing, match="dump is of s390x, and this host") as caught:
        platforms.require_emulation("s390x", INFO)
    assert caught.value.hint == checks.emulation_fix("s390x")
    assert caught.value.hint.startswith("sudo ")
    assert caught.value.exit_code == 23


@pytest.mark.parametrize(
    ("machine", "platform"), [("aarch64", "linux/arm64"), ("ppc64le", "linux/ppc64le"), ("s390x", "linux/s390x")]
)
def test_a_profile_for_another_architecture_has_images_of_its_own(machine: str, platform: str) -> None:
    own = profiles.by_name("debian-12")
    other = platforms.for_arch(own, machine)
    assert other.platform == platform
    assert platforms.arch_of(platform) == machine
    assert image.reference(other).startswith(f"localhost/vmbox/debian-12-{machine}:")
    assert image.reference(other) != image.reference(own)
    assert platforms.for_arch(own, None) is own
    assert platforms.for_arch(other, machine) is other
    assert other.debuginfo == own.debuginfo
    assert "drgn" in own.image.debuggers
    assert other.image.debuggers == ("crash",)


def test_a_profile_is_found_by_name_with_and_without_an_architecture() -> None:
    own = profiles.by_name("latest")
    for profile in (own, *(platforms.for_arch(own, machine) for machine in ("aarch64", "ppc64le", "s390x"))):
        found = platforms.by_name(profile.name)
        assert found == profile
    assert platforms.by_name("prepare-debian-12") is None
    assert platforms.by_name("latest-vax") is None


def test_missing_tools_for_a_base_of_another_architecture_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "mmdebstrap"
    tool.write_text("#!/bin/sh\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    how = profiles.by_name("debian-12").base.bootstrap
    assert how is not None
    with QUIET.step("x") as step, pytest.raises(BaseImageUnavailable, match="needs arch-test") as caught:
        bootstrap.make_rootfs(how, tmp_path / "root.tar", step, architecture="arm64")
    assert caught.value.hint == "sudo apt-get install arch-test"
    # For the host's own architecture it is not needed: here the tool itself fails.
    with QUIET.step("x") as step, pytest.raises(BaseImageUnavailable, match="mmdebstrap failed"):
        bootstrap.make_rootfs(how, tmp_path / "root.tar", step)


def test_ubuntu_of_other_architectures_is_on_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    ubuntu = profiles.by_name("ubuntu-22.04")
    assert ubuntu.base.bootstrap is not None
    for machine, host, other in (
        ("x86_64", "http://archive.ubuntu.com/ubuntu", "ports"),
        ("aarch64", "http://ports.ubuntu.com/ubuntu-ports", "archive"),
    ):
        profile = platforms.for_arch(ubuntu, machine)
        text = package_sources.package_sources(profile)["sources.list"].decode()
        assert f"{host} jammy main universe\n" in text
        assert other not in text
        word = package_sources.architecture(profile)
        assert ubuntu.base.bootstrap.ports.get(word, ubuntu.base.bootstrap.mirror) == host

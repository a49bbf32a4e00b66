"""Every image's Containerfile as it is sent to the engine: complete, and in the subset that every builder knows."""

from __future__ import annotations

import io
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from sandbox import image, profiles
from sandbox.debugger import DEBUGGERS
from sandbox.host import paths
from sandbox.image import containerfile

INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "ENV", "LABEL", "WORKDIR", "USER", "SHELL", "ENTRYPOINT", "CMD"}
"""Instructions that Docker's classic builder and Podman's both know. Without ADD, which can fetch from the network."""

NAMES = sorted(profiles.load())

MADE_UP = """
title = "Example Linux 42"
classes = ["example:42"]
releases = ['\\.ex42\\.']
[base]
images = ["registry.example/example:42"]
[image]
fragments = ["base", "dnf", "crash-dnf", "session"]
sources = ["core http://mirror.example/42/$basearch/ http://archive.example/42/$basearch/"]
keys = ["example.asc"]
[crash]
version = "9.9"
"""


def files_of(profile: profiles.Profile) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(containerfile.context(containerfile.of_profile(profile)))) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}  # type: ignore[union-attr]


def instructions(containerfile: str) -> list[str]:
    joined = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", containerfile))
    return [line for line in joined.splitlines() if line.strip()]


@pytest.mark.parametrize("name", NAMES)
def test_containerfile_is_in_the_subset_of_all_builders(name: str) -> None:
    files = files_of(profiles.by_name(name))
    lines = instructions(files["Containerfile"])
    assert lines[0] == "ARG BASE"
    assert lines[1] == "FROM ${BASE}"
    for line in lines:
        word, _, rest = line.partition(" ")
        assert word in INSTRUCTIONS, line
        # Flags (--mount, --chmod, --link) and here-documents need BuildKit, which docker-py does not support.
        assert not re.match(r"\s*--\w", rest), line
        assert "<<" not in rest, line
        if word == "COPY":
            *sources, _ = shlex.split(rest)
            assert set(sources) <= set(files)
        if word == "RUN":
            assert rest.count("'") % 2 == 0, line
            assert "set -" not in rest, line
    # Every case needs the session script.
    assert {"session", "shell"} <= set(files)
    if profiles.by_name(name).image.unusable is None:
        assert any(word in files["Containerfile"] for word in (" crash less", " crash\n"))


@pytest.mark.parametrize("name", NAMES)
def test_every_image_has_every_debugger_or_a_reason(name: str) -> None:
    profile = profiles.by_name(name)
    if profile.image.unusable is not None:
        return
    had, lacking = set(profile.image.debuggers), set(profile.image.lacks)
    assert had | lacking == set(DEBUGGERS)
    assert not had & lacking
    text = files_of(profile)["Containerfile"]
    package = profile.image.args.get("DRGN", "")
    assert (package != "") == ("drgn" in had)
    assert package == "" or "${DRGN}" in text
    # Without a wheel, the package is drgn itself.
    wheel = "drgn" in had and "drgn" not in package
    assert wheel == ("drgn-wheel" in profile.image.fragments)
    if wheel:
        assert text.index("install-drgn.py") < text.index("/usr/libexec/vmbox/versions")
        offered = [one.split(",") for one in containerfile.of_profile(profile).args["DRGN_WHEELS"].split()]
        assert all(len(sha256) == 64 and url.startswith("https://") for _, url, sha256 in offered)
        # A package that names its Python is of one that there is a wheel for.
        named = {f"3.{minor}" for minor in re.findall(r"python3\.?(\d+)", package)}
        assert named <= {python for python, _, _ in offered}


@pytest.mark.parametrize("name", [name for name in NAMES if "dnf" in profiles.by_name(name).image.fragments])
def test_rpm_repositories_are_checked_against_the_vendors_keys(name: str) -> None:
    files = files_of(profiles.by_name(name))
    sections = files["vmbox.repo"].split("\n\n")
    assert len(sections) == len(profiles.by_name(name).image.sources)
    for section in sections:
        assert "gpgcheck=1\ngpgkey=file:///etc/vmbox/vmbox.asc" in section
        assert re.search(r"(?m)^(baseurl|mirrorlist)=https?://", section)
    assert files["vmbox.asc"].startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----")


def test_bases_without_a_registry_are_made_of_signed_packages() -> None:
    usable = {name for name in NAMES if profiles.by_name(name).image.unusable is None}
    without = {name for name in usable if profiles.by_name(name).base.bootstrap is None}
    # No key of Photon is known here; SLES 12 has no packages in public.
    assert without == {"photon", "sles-12"}
    for name in usable - without:
        profile = profiles.by_name(name)
        how = profile.base.bootstrap
        assert how is not None
        if how.tool == "dnf":
            assert how.packages
            assert profile.image.sources
            assert profile.image.keys
    amazon = files_of(profiles.by_name("amazon-2023"))["vmbox.repo"]
    assert "\nmirrorlist=https://cdn.amazonlinux.com/al2023/core/mirrors/latest/$basearch/mirror.list\n" in amazon


def test_dead_mirrors_are_not_asked() -> None:
    gone = re.compile(
        r"mirror\.centos\.org|mirrorlist\.centos\.org|deb\.debian\.org/debian(-security)? (stretch|buster)"
    )
    for name in NAMES:
        for text in files_of(profiles.by_name(name)).values():
            assert not gone.search(text), name
    assert "https://vault.centos.org/7.9.2009/os/$basearch/" in files_of(profiles.by_name("el7"))["vmbox.repo"]
    assert "http://archive.debian.org/debian buster main" in files_of(profiles.by_name("debian-10"))["sources.list"]


def test_the_sites_mirrors_are_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMBOX_MIRRORS", "https://dl.rockylinux.org=http://127.0.0.1:8080")
    repo = files_of(profiles.by_name("el9"))["vmbox.repo"]
    assert "baseurl=http://127.0.0.1:8080/pub/rocky/9/BaseOS/$basearch/os/" in repo
    assert "dl.rockylinux.org" not in repo


def test_a_new_distribution_is_one_file_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images" / "keys").mkdir(parents=True)
    (tmp_path / "images" / "example-42.toml").write_text(MADE_UP)
    key = (paths.data_dir() / "images" / "keys" / "rocky-9.asc").read_text()
    (tmp_path / "images" / "keys" / "example.asc").write_text(key)
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    profiles.load.cache_clear()
    try:
        profile = profiles.by_name("example-42")
        files = files_of(profile)
    finally:
        profiles.load.cache_clear()
    assert (
        "baseurl=http://mirror.example/42/$basearch/\n    http://archive.example/42/$basearch/" in files["vmbox.repo"]
    )
    assert "install crash less" in files["Containerfile"]
    assert image.reference(profile).startswith("localhost/vmbox/example-42:")

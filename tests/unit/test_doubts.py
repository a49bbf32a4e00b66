"""What a crash of another version than the profile's knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import profiles
from sandbox.model import Vmcore
from sandbox.profiles.definition import Crash
from sandbox.profiles.doubts import crash_backports, crash_changes, crash_misreadings, max_kernel

NEWEST = Crash(version="9.0.2", max_kernel="7.0")


@pytest.mark.parametrize(
    ("crash", "version", "expected"),
    [
        (NEWEST, "9.0.2", "7.0"),
        (NEWEST, "", "7.0"),
        # An update, which reads 7.1 and 7.2.
        (NEWEST, "9.0.3", "7.2"),
        (NEWEST, "9.1.0", "7.2"),
        # An older one: of a mirror, or of a user's own image. It lacks the commits for 5.13 and for 5.8.
        (NEWEST, "8.0.2", "5.12"),
        (NEWEST, "7.2.9", "5.6"),
        # That of Ubuntu 16.04, which lacks the one for 4.1.
        (NEWEST, "7.1.4", "4.0"),
        # What was tried with an older crash works with a newer one, too.
        (Crash(version="8.0.6", max_kernel="6.12"), "9.0.2", "7.0"),
        (Crash(version="7.2.9", max_kernel="5.6"), "8.0.0", "5.12"),
        (Crash(version="9.0.2"), "9.0.3", None),
    ],
)
def test_the_ceiling_of_the_crash_that_the_image_has(crash: Crash, version: str, expected: str | None) -> None:
    assert max_kernel(crash, version) == expected


def _doubts(versions: dict[str, str], release: str, version: str | None = None) -> dict[str, str]:
    vmcore = Vmcore(path=Path("vmcore"), format="elf", size=1, release=release, utsname_version=version)
    return profiles.doubts(profiles.by_name("latest"), versions, vmcore)


def test_doubts_go_by_the_version_in_the_image() -> None:
    release = "7.2.12+deb14-cloud-amd64"
    assert "crash 9.0.2 of latest knows kernels up to 7.0" in _doubts({}, release)["crash"]
    assert _doubts({"crash": "9.0.3"}, release) == {}
    assert "crash 8.0.2 of latest" in _doubts({"crash": "8.0.2"}, "6.1.0-50-cloud-amd64")["crash"]


def test_a_kernel_that_no_debugger_knows() -> None:
    found = _doubts({"crash": "9.0.2", "drgn": "0.3.0"}, "7.9.0-1-amd64")
    assert found["drgn"].startswith("drgn 0.3.0 was tried with kernels up to 7.3, and this is 7.9.0-1-amd64")
    assert "crash" in found
    assert _doubts({"crash": "9.0.2", "drgn": "0.4.0"}, "7.9.0-1-amd64").keys() == {"crash"}
    assert _doubts({"crash": "9.0.2", "drgn": "0.3.0"}, "7.3.1-1-amd64").keys() == {"crash"}
    assert _doubts({"crash": "9.0.2"}, "7.9.0-1-amd64").keys() == {"crash"}


def test_a_stable_kernel_with_a_backport() -> None:
    said = _doubts({"crash": "8.0.3"}, "4.19.0-27-amd64", "#1 SMP Debian 4.19.316-1 (2024-06-25)")["crash"]
    assert said == (
        "crash 8.0.3 of latest does not know what 4.19.316 has of newer kernels: "
        "free objects of hardened slabs are linked as in 5.7: kmem -s counts them wrongly"
    )
    assert _doubts({"crash": "8.0.4"}, "4.19.0-27-amd64", "#1 SMP Debian 4.19.316-1 (2024-06-25)") == {}
    assert _doubts({"crash": "8.0.3"}, "5.4.31") == {}
    assert _doubts({"crash": "8.0.3"}, "5.4.32").keys() == {"crash"}
    # Of another series, and a number of another kind.
    assert _doubts({"crash": "8.0.3"}, "5.3.18-150300.59.106-default") == {}
    assert _doubts({"crash": "8.0.3"}, "4.15.0-213-generic", "#224~18.04.1-Ubuntu SMP") == {}


@pytest.mark.parametrize(
    ("release", "arch", "expected"),
    [
        ("5.7.19-arch1-1", "x86_64", False),
        ("5.8.0-63-generic", "x86_64", True),
        ("5.10.0-32-cloud-amd64", "x86_64", True),
        ("5.11.22-7-pve", "x86_64", True),
        ("5.12.19-200.fc33.x86_64", "x86_64", False),
        ("5.10.0-32-arm64", "aarch64", False),
        (None, "x86_64", False),
    ],
)
def test_stacks_that_each_crash_misreads(release: str | None, arch: str, expected: bool) -> None:
    vmcore = Vmcore(path=Path("vmcore"), format="elf", size=1, release=release, arch=arch)
    newest = profiles.by_name("latest")
    for version in ("9.0.2", "9.0.3"):
        found = profiles.doubts(newest, {"crash": version, "drgn": "0.3.0"}, vmcore)
        assert list(found) == (["crash"] if expected else [])
        assert not expected or found["crash"].startswith("no crash reads all stacks of kernels 5.8 to 5.11 right, and")
        assert profiles.only_misread(newest, {"crash": version}, vmcore) is expected
    # One that is too old for the kernel as well is doubted for that.
    if expected:
        found = profiles.doubts(newest, {"crash": "7.2.9"}, vmcore)
        assert "crash 7.2.9 of latest knows kernels up to 5.6" in found["crash"]
        assert not profiles.only_misread(newest, {"crash": "7.2.9"}, vmcore)


def test_no_other_image_is_taken_where_each_crash_misreads() -> None:
    vmcore = Vmcore(path=Path("vmcore"), format="elf", size=1, release="5.10.134-18.al8.x86_64", arch="x86_64")
    assert profiles.select(vmcore).crash_from.name == "alibaba"


def test_changes_name_their_commit() -> None:
    assert all(one.commit and one.what for one in (*crash_changes(), *crash_backports()))
    assert all(one.commits and one.what for one in crash_misreadings())

"""What a crash of another version than the profile's knows."""

from __future__ import annotations

import pytest

from sandbox import profiles
from sandbox.profiles.definition import Crash
from sandbox.profiles.doubts import crash_changes, max_kernel

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


def test_doubts_go_by_the_version_in_the_image() -> None:
    newest = profiles.by_name("latest")
    release = "7.2.12+deb14-cloud-amd64"
    assert "crash 9.0.2 of latest knows kernels up to 7.0" in profiles.doubts(newest, {}, release)["crash"]
    assert profiles.doubts(newest, {"crash": "9.0.3"}, release) == {}
    assert "crash 8.0.2 of latest" in profiles.doubts(newest, {"crash": "8.0.2"}, "6.1.0-50-cloud-amd64")["crash"]


def test_a_kernel_that_no_debugger_knows() -> None:
    newest = profiles.by_name("latest")
    found = profiles.doubts(newest, {"crash": "9.0.2", "drgn": "0.3.0"}, "7.9.0-1-amd64")
    assert found["drgn"].startswith("drgn 0.3.0 was tried with kernels up to 7.3, and this is 7.9.0-1-amd64")
    assert "crash" in found
    assert profiles.doubts(newest, {"crash": "9.0.2", "drgn": "0.4.0"}, "7.9.0-1-amd64").keys() == {"crash"}
    assert profiles.doubts(newest, {"crash": "9.0.2", "drgn": "0.3.0"}, "7.3.1-1-amd64").keys() == {"crash"}
    assert profiles.doubts(newest, {"crash": "9.0.2"}, "7.9.0-1-amd64").keys() == {"crash"}


def test_changes_name_their_commit() -> None:
    assert all(one.commit and one.what for one in crash_changes())

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox import profiles
from sandbox.errors import ConfigurationError, UnknownKernel
from sandbox.host import paths
from sandbox.model import Vmcore, kernel_version
from sandbox.profiles import makedumpfile

DAY = tomllib.loads((paths.data_dir() / "images" / "latest.toml").read_text())["image"]["snapshot"][-16:-8]
PAST = f"latest-{DAY}"
"""The newest crash of an earlier day."""
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
FORMAT = """
[debuginfo]
format = "deb"
packages = []
vmlinux = []
"""


@pytest.fixture(autouse=True, scope="module")
def shipped_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Only the profiles of vmbox, not the user's; read once for all tests here."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path_factory.mktemp("config")))
        profiles.load.cache_clear()
        profiles.load()
        yield
    profiles.load.cache_clear()


@pytest.fixture
def own_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
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
        # The frame of a fault needs crash 7.3.0.
        ("5.10.0-32-amd64", "debian-11", "latest"),
        ("6.1.0-50-cloud-amd64", "debian-12", "latest"),
        ("6.12.94+deb13-cloud-amd64", "debian-13", "debian-13"),
        ("6.12.95+deb12-cloud-amd64", "debian-12", "latest"),
        ("6.1.0-0.deb11.21-amd64", "debian-11", "latest"),
        ("7.2.11+deb13-cloud-amd64", "debian-13", "latest"),
        ("7.2.13+deb14-cloud-amd64", "debian-14", "debian-14"),
    ],
)
def test_debian_kernels_find_their_profile(release: str, home: str, image: str) -> None:
    selection = profiles.select(_dump(release))
    assert (selection.distribution.name, selection.crash_from.name) == (home, image)
    if home != image:
        assert "knows kernels up to" in selection.reason


@pytest.mark.parametrize(
    ("release", "version", "home", "image"),
    [
        # Free objects are linked as in 5.7 since stable 4.19.116, which Debian has in `uname -v`.
        ("4.19.0-27-amd64", "#1 SMP Debian 4.19.316-1 (2024-06-25)", "debian-10", "latest"),
        ("4.19.0-8-amd64", "#1 SMP Debian 4.19.98-1 (2020-01-26)", "debian-10", "debian-10"),
        ("4.9.0-19-amd64", "#1 SMP Debian 4.9.320-2 (2022-06-30)", "debian-9", "latest"),
        ("4.9.0-3-amd64", "#1 SMP Debian 4.9.30-2 (2017-06-12)", "debian-9", "debian-9"),
        ("5.4.31-1.amzn2.x86_64", None, "amazon-2", "amazon-2"),
        ("5.4.32-1.amzn2.x86_64", None, "amazon-2", "latest"),
        ("4.14.301-224.520.amzn2.x86_64", None, "amazon-2", "latest"),
        ("5.10.102-99.473.amzn2.x86_64", None, "amazon-2", "latest"),
        # Ubuntu takes over stable's fixes under numbers of its own.
        ("5.4.0-26-generic", "#30-Ubuntu SMP Mon Apr 20 16:58:30 UTC 2020", "ubuntu-20.04", "latest"),
    ],
)
def test_a_crash_that_does_not_know_a_backport_is_not_used(
    release: str, version: str | None, home: str, image: str
) -> None:
    selection = profiles.select(_dump(release, version))
    assert (selection.distribution.name, selection.crash_from.name) == (home, image)
    if version is not None and "Debian" in version and image == "latest":
        assert f"of {home} does not know what {version.split()[3].partition('-')[0]} has of newer" in selection.reason
        assert f"crash {selection.crash_from.crash.version} is used" in selection.reason


def test_unknown_kernel() -> None:
    selection = profiles.select(_dump("9.9.9-nobody"))
    assert (selection.distribution.name, selection.crash_from.name) == ("latest", "latest")
    assert "no profile is of kernel 9.9.9-nobody" in selection.reason
    with pytest.raises(UnknownKernel, match="does not say which kernel"):
        profiles.select(_dump(None))


def _releases() -> list[tuple[str, str | None, str]]:
    lines = (Path(__file__).parents[1] / "fixtures" / "releases.tsv").read_text().splitlines()[1:]
    return [(release, version or None, klass) for release, version, klass, *_ in (line.split("\t") for line in lines)]


HOMES = {
    **{f"rhel:{major}": f"el{major}" for major in (6, 7, 8, 9, 10)},
    **{f"oracle-uek:{major}": f"el{major}" for major in (7, 8, 9, 10)},
    **{f"debian:{major}": f"debian-{major}" for major in range(9, 15)},
    "debian:8": "debian-9",
    "debian:sid": "debian-14",
    **{f"ubuntu:{series}": f"ubuntu-{series}" for series in ("16.04", "18.04", "20.04", "22.04")},
    "ubuntu:14.04": "ubuntu-16.04",
    "ubuntu:24.04": "ubuntu-24.04",
    "ubuntu:19.10": "ubuntu-20.04",
    **{f"ubuntu:{series}": "ubuntu-26.04" for series in ("25.04", "26.04", "26.10", "devel")},
    "sle:12": "sles-12",
    "sle:15": "sles-15",
    "sle:16": "sles-16",
    "opensuse-leap:15": "sles-15",
    "opensuse-tumbleweed/kotd": "tumbleweed",
    "amazon:2": "amazon-2",
    "amazon:2023": "amazon-2023",
    "azurelinux": "azurelinux",
    "mariner:2": "azurelinux",
    "anolis:8": "anolis",
    "openeuler": "openeuler",
    "fedora": "fedora",
    "photon": "photon",
    "elrepo": "elrepo",
    "alibaba": "alibaba",
    "arch-like": "arch",
    "amazon:2027": "amazon-2027",
    "proxmox": "proxmox",
    "raspberrypi-os": "raspberrypi-os",
    "flatcar": "flatcar",
    "alpine": "alpine",
    "sle-micro:6": "sles-15",
}
"""Class of releases: its profile. Minor versions have that of their major version. All others have `latest`."""


@pytest.mark.parametrize(("release", "version", "klass"), _releases())
def test_every_known_release_finds_its_profile(release: str, version: str | None, klass: str) -> None:
    expected = HOMES.get(klass) or HOMES.get(klass.partition(".")[0]) or HOMES.get(klass.partition(":")[0], "latest")
    selection = profiles.select(_dump(release, version))
    assert selection.distribution.name == expected
    # The newest crash is no help where it knows no newer kernels.
    helps = selection.distribution.crash.max_kernel != profiles.by_name("latest").crash.max_kernel
    too_new = helps and profiles.doubt_crash(selection.distribution, release, version) is not None
    assert selection.crash_from.name == ("latest" if too_new or selection.distribution.image.unusable else expected)


def test_programs_of_el6_are_unusable_for_a_given_reason() -> None:
    selection = profiles.select(_dump("2.6.32-754.35.1.el6.x86_64"))
    assert (selection.distribution.name, selection.crash_from.name) == ("el6", "latest")
    assert "vsyscall" in selection.reason
    assert profiles.select(_dump("2.6.32-754.35.1.el6.x86_64"), override="el6").crash_from.name == "el6"


def test_there_is_one_newest_crash_and_it_replaces_others() -> None:
    assert [profile.name for profile in profiles.load().values() if profile.latest] == ["latest"]
    selection = profiles.select(_dump("4.18.0-553.el8_10.x86_64"))
    instead = next(profiles.fallbacks(selection, "4.18.0-553.el8_10.x86_64"), None)
    assert instead is not None
    assert (instead.distribution.name, instead.crash_from.name) == ("el8", "latest")
    assert [one.crash_from.name for one in profiles.fallbacks(instead, None) if one.crash_from.latest] == [PAST]


def test_the_newest_crash_of_an_earlier_day_is_of_a_signed_suite() -> None:
    past = profiles.by_name("latest").of_the_past()
    assert past is not None
    assert past.image.sources == (
        f"deb [check-valid-until=no] http://snapshot.debian.org/archive/debian/{DAY}T000000Z forky main",
    )
    assert past.base.bootstrap is not None
    assert past.base.bootstrap.mirror == past.image.sources[0]
    assert past.of_the_past() is None
    assert profiles.by_name(past.name) == past
    assert profiles.by_name("debian-13").of_the_past() is None


@pytest.mark.parametrize(
    ("release", "names"),
    [
        # Debian 12's own crash does not know its kernel.
        ("6.1.0-50-cloud-amd64", ["debian-13", PAST]),
        ("5.10.0-32-amd64", ["debian-13", "debian-12", PAST]),
        ("6.12.94+deb13-cloud-amd64", ["latest", PAST]),
        ("7.2.13+deb14-cloud-amd64", ["latest", PAST]),
        # No stable crash knows it.
        ("7.0.0-22-generic", [PAST]),
    ],
)
def test_stable_crashes_follow_where_the_newest_cannot_be_had(release: str, names: list[str]) -> None:
    selection = profiles.select(_dump(release))
    found = list(profiles.fallbacks(selection, release))
    assert [one.crash_from.name for one in found] == names
    assert {one.distribution.name for one in found} == {selection.distribution.name}
    replaced = [selection.crash_from.name, *names]
    assert all(one.reason.endswith(f"in place of {before}") for one, before in zip(found, replaced, strict=False))


def test_an_override_is_believed_of_a_dump_that_does_not_name_its_kernel() -> None:
    selection = profiles.select(_dump(None), override="debian-13")
    assert (selection.crash_from.name, selection.distribution.name) == ("debian-13", "debian-13")


def test_override_changes_the_image_and_not_the_distribution() -> None:
    selection = profiles.select(_dump("6.1.0-50-cloud-amd64"), override="debian-13")
    assert (selection.distribution.name, selection.crash_from.name) == ("debian-12", "debian-13")
    with pytest.raises(ConfigurationError, match="no profile debian-77"):
        profiles.select(_dump("6.1.0-50-cloud-amd64"), override="debian-77")


def test_files_that_cannot_claim_a_class_are_not_read(own_profiles: Path) -> None:
    """A query for one kernel does not wait for all profiles, and has the same result."""
    (own_profiles / "debian-99.toml").write_text("title = 3 = 4")
    for release in ("6.1.0-50-cloud-amd64", "4.18.0-553.el8_10.x86_64"):
        few = profiles.select(_dump(release))
        assert few.distribution.name == {"6": "debian-12", "4": "el8"}[release[0]]


def test_a_new_major_version_is_one_file(own_profiles: Path) -> None:
    (own_profiles / "debian-99.toml").write_text(NEW.format(claim='"debian:99"', extra='releases = ["-mine$"]'))
    assert profiles.select(_dump("9.9.9-mine")).crash_from.title == "Debian 99"


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
        (NEW.format(claim='"debian:99"', extra="tried = 'no'"), "tried is called tested now"),
        (
            NEW.format(claim='"debian:99"', extra="") + "newest_kernel = '6.1'",
            "crash.newest_kernel is called crash.max_",
        ),
        (NEW.format(claim='"debian:99"', extra="name = 'mine'"), "unknown key name"),
        (NEW.format(claim='"debian:99"', extra="latest = 1"), "latest must be true or false"),
        (NEW.format(claim='"debian:99"', extra="base = 3").replace("[base]", "[bases]"), r"needs a table \[base\]"),
        (NEW.format(claim='"debian:99"', extra="debuginfo = 3"), "debuginfo is not a table"),
        (NEW.format(claim='"debian:99"', extra="") + FORMAT + "archives = 3", "debuginfo.archives must be a list of"),
        (
            NEW.format(claim='"debian:99"', extra="") + FORMAT + "archives = [{}]",
            r"\[debuginfo.archives\] lacks vendor",
        ),
        (NEW.format(claim='"debian:99"', extra="x = " + "9" * 5000), "a number has too many digits"),
        (NEW.format(claim='"debian:99"', extra="x = nan"), "nan is no number"),
        (NEW.format(claim='"debian:99"', extra="x = " + "[" * 100_000), "nested too deeply"),
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
        if profile.debuginfo and profile.debuginfo.query_script:
            assert (fragments / "files" / profile.debuginfo.query_script).is_file()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_no_max_kernel_is_newer_than_the_crash_supports() -> None:
    table = tomllib.loads((paths.data_dir() / "images" / "crash-changes.toml").read_text())["change"]
    for profile in profiles.load().values():
        unknown = [
            kernel_version(change["kernel"])
            for change in table
            if _numbers(profile.crash.version) < _numbers(change["crash"])
        ]
        # The next kernel may change what no crash of today reads, so each has a ceiling.
        ceiling = profile.crash.max_kernel
        assert ceiling is not None, profile.name
        assert not unknown or kernel_version(ceiling) < min(unknown), profile.name


def test_a_crash_above_its_ceiling_is_doubted() -> None:
    newest = profiles.by_name("latest")
    assert newest.doubt("7.0.3-generic") is None
    assert newest.doubt(None) is None
    said = newest.doubt("7.2.12+deb14-cloud-amd64")
    assert said is not None
    assert "knows kernels up to 7.0" in said


CRASH = 'crash: page excluded: kernel virtual address: ffff909980440270  type: "xa_node.slots[off]"'
DRGN = "warning: couldn't get TASKS: could not read memory from kdump: Excluded page: 0xff429f4ac1447b60"


def test_a_missing_page_of_the_kernel_is_told_from_one_left_out_on_purpose() -> None:
    assert makedumpfile.misses_kernel_page(CRASH)
    assert makedumpfile.misses_kernel_page(DRGN)
    assert makedumpfile.misses_kernel_page("drgn: crash: error: virtio is left out: pages of it are not in the dump")
    for on_purpose in (
        'rd: page excluded: user virtual address: 7ffe75610928  type: "64-bit UVADDR"',
        "could not read memory from kdump: Excluded page: 0x7f429f4ac144",
        "page excluded",
    ):
        assert not makedumpfile.misses_kernel_page(on_purpose)


@pytest.mark.parametrize(
    ("release", "level", "words"),
    [
        ("7.2.12+deb14-cloud-amd64", 31, "makedumpfile before 1.8.0 leaves out tail pages of compound pages"),
        ("7.2.12+deb14-cloud-amd64", None, "let kdump run a newer makedumpfile, or makedumpfile -d 23"),
        ("6.12.118+deb13-cloud-amd64", 31, "before 1.7.6 leaves out slab pages that look like user data on Linux 6.10"),
        ("6.8.0-45-generic", 31, "its commit 5f17bdd fixes that"),
        ("7.2.12", 9, "makedumpfile -d 1"),
        # Nothing of the kind is known of it, or cannot be with that level.
        ("6.1.0-56-cloud-amd64", 31, None),
        ("7.2.12", 17, None),
        (None, 31, None),
    ],
)
def test_the_fault_of_makedumpfile_is_named_by_kernel(
    release: str | None, level: int | None, words: str | None
) -> None:
    said = makedumpfile.explain(release, level)
    assert (said is None) if words is None else (said is not None and words in said)


def test_makedumpfiles_faults_are_in_the_order_of_kernels() -> None:
    kernels = [kernel_version(one.kernel) for one in makedumpfile.changes()]
    assert kernels == sorted(set(kernels))
    assert all(0 < one.without < 32 and len(one.commit) == 7 for one in makedumpfile.changes())

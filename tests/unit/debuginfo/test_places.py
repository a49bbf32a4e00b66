"""Each kernel's package, and the place where its vendor keeps it, as the shipped profiles have them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from sandbox.debuginfo.package_names import package_names
from sandbox.debuginfo.urls import (
    Candidate,
    PackageSources,
    Question,
    Repository,
    Source,
    VersionedRepositories,
    questions,
)
from sandbox.dump.release import of_release, vendor
from sandbox.model import Vmcore
from sandbox.profiles import by_name, select

ROCKY = "https://dl.rockylinux.org/vault/rocky"
KOJI = "https://kojihub.stream.centos.org/kojifiles/packages"
ALMA = "https://vault.almalinux.org"
CDN = "https://cdn.redhat.com/content"
PVE = "http://download.proxmox.com/debian/pve/dists"
RASPBERRY_PI = "https://archive.raspberrypi.com/debian/pool/main/l/linux"
LEAP = "https://download.opensuse.org/debug"


def asked(kernel: Vmcore) -> list[Question]:
    home = select(kernel).distribution
    names = package_names(kernel, home)
    return [question for source in Source for question in questions(source, home, kernel, names)]


def urls(kernel: Vmcore) -> list[str]:
    """What is asked, as text; of package sources each line."""
    found: list[str] = []
    for question in asked(kernel):
        match question:
            case Candidate():
                found.append(question.remote.url)
            case Repository():
                found.append(question.url)
            case PackageSources():
                found += question.lines
            case VersionedRepositories():
                found += [question.index, *question.urls]
    return found


def kernel(release: str, version: str | None = None, **more: object) -> Vmcore:
    return replace(of_release(release, version), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("release", "package", "places"),
    [
        # The first kernel of each minor version of EL 8 does not spell it.
        ("4.18.0-348.el8.0.2.x86_64", "kernel-debuginfo-", [f"{ROCKY}/8.5/BaseOS/x86_64", f"{ALMA}/8.5/BaseOS/debug"]),
        ("4.18.0-372.9.1.el8.x86_64", "kernel-debuginfo-", [f"{ROCKY}/8.6/BaseOS/x86_64", f"{ALMA}/8.6/BaseOS/debug"]),
        ("4.18.0-425.3.1.el8.x86_64", "kernel-debuginfo-", [f"{ROCKY}/8.7/BaseOS/x86_64", f"{ALMA}/8.7/BaseOS/debug"]),
        ("4.18.0-240.el8.aarch64", "kernel-debuginfo-", [f"{ALMA}/8.3/BaseOS/debug/aarch64"]),
        ("4.18.0-477.21.1.el8_8.x86_64", "kernel-debuginfo-", [f"{ROCKY}/8.8/BaseOS", f"{CDN}/eus/rhel8/8.8/x86_64"]),
        # Realtime kernels are in other trees, and debug variants in packages of their own.
        (
            "4.18.0-305.19.1.rt7.91.el8_4.x86_64",
            "kernel-rt-debuginfo-",
            [f"{ROCKY}/8.4/RT/x86_64", f"{ROCKY}/8.4/NFV/x86_64", f"{CDN}/dist/rhel8/8/x86_64/nfv/debug"],
        ),
        ("4.18.0-305.12.1.rt7.84.el8_4.x86_64+debug", "kernel-rt-debug-debuginfo-", [f"{ALMA}/8.4/RT/debug/x86_64"]),
        ("5.14.0-427.13.1.el9_4.x86_64+rt-debug", "kernel-rt-debug-debuginfo-", [f"{ROCKY}/9.4/NFV/x86_64"]),
        ("5.14.0-427.13.1.el9_4.x86_64+rt", "kernel-rt-debuginfo-", [f"{CDN}/e4s/rhel9/9.4/x86_64/rt/debug"]),
        ("5.14.0-503.11.1.el9_5.aarch64+64k-debug", "kernel-64k-debug-debuginfo-", [f"{ROCKY}/9.5/BaseOS/aarch64"]),
        ("5.14.0-503.11.1.el9_5.aarch64+64k", "kernel-64k-debuginfo-", [f"{ALMA}/9.5/BaseOS/debug/aarch64"]),
        ("5.14.0-362.8.1.el9_3.x86_64+debug", "kernel-debug-debuginfo-", [f"{ROCKY}/9.3/BaseOS/x86_64"]),
        ("6.12.0-124.8.1.el10_1.aarch64+rt-64k", "kernel-rt-64k-debuginfo-", [f"{ROCKY}/10.1/RT/aarch64"]),
        ("6.12.0-55.9.1.el10_0.x86_64_v2", "kernel-debuginfo-", [f"{ALMA}/10.0/BaseOS/debug/x86_64_v2"]),
        # CentOS Stream: signed copies in Koji, then unsigned ones, then debuginfod.
        (
            "5.14.0-503.el9.x86_64",
            "kernel-debuginfo-",
            [
                "https://mirror.stream.centos.org/9-stream/BaseOS/x86_64/debug/tree",
                f"{KOJI}/kernel/5.14.0/503.el9/data/signed",
                f"{KOJI}/kernel/5.14.0/503.el9/x86_64",
                "https://debuginfod.centos.org/buildid/",
            ],
        ),
        # RHEL 7 after its end, its extended minor versions, and other machines.
        (
            "3.10.0-957.99.1.el7.x86_64",
            "kernel-debuginfo-",
            [
                "http://debuginfo.centos.org/7/x86_64",
                f"{CDN}/dist/rhel/server/7/7Server/x86_64/debug",
                f"{CDN}/els/rhel/server/7/7Server/x86_64/debug",
                f"{CDN}/eus/rhel/server/7/7.6/x86_64/debug",
                f"{CDN}/tus/rhel/server/7/7.6/x86_64/debug",
            ],
        ),
        (
            "4.14.0-115.el7a.aarch64",
            "kernel-debuginfo-",
            [f"{CDN}/dist/rhel-alt/server/7/7Server/armv8-a/aarch64/debug"],
        ),
        ("3.10.0-1160.el7.ppc64le", "kernel-debuginfo-", [f"{CDN}/dist/rhel/power-le/7/7Server/ppc64le/debug"]),
        (
            "3.10.0-327.22.2.rt56.230.el7_2.x86_64",
            "kernel-rt-debuginfo-",
            [f"{CDN}/dist/rhel/server/7/7Server/x86_64/rt"],
        ),
        (
            "3.10.0-1160.102.1.el7.centos.plus.x86_64",
            "kernel-plus-debuginfo-",
            ["http://debuginfo.centos.org/7/x86_64"],
        ),
        ("2.6.32-754.35.1.el6.x86_64", "kernel-debuginfo-", [f"{CDN}/els/rhel/server/6/6Server/x86_64/debug"]),
        (
            "5.15.0-3.60.5.1.el9uek.x86_64.debug",
            "kernel-uek-debug-debuginfo-",
            ["https://oss.oracle.com/ol9/debuginfo"],
        ),
        ("6.11.0-0.el9ueknext.x86_64", "kernel-ueknext-debuginfo-", ["https://oss.oracle.com/ol9/debuginfo"]),
        ("6.8.0-2.el9uek.x86_64", "kernel-ueknext-debuginfo-", ["https://oss.oracle.com/ol9/debuginfo"]),
        ("6.12.0-100.28.2.el9uek.aarch64.64k", "kernel-uek64k-debuginfo-", ["https://oss.oracle.com/ol9/debuginfo"]),
        ("5.14.0-427.13.1.el9_4.s390x+zfcpdump", "kernel-zfcpdump-debuginfo-", [f"{ROCKY}/9.4/BaseOS/s390x"]),
        (
            "6.17.1-300.fc43.aarch64+16k-debug",
            "kernel-16k-debug-debuginfo-",
            ["https://dl.fedoraproject.org/pub/fedora"],
        ),
        (
            "6.1.90-99.173.amzn2023.x86_64",
            "kernel-debuginfo-",
            [
                "https://cdn.amazonlinux.com/al2023/core/mirrors/latest/debuginfo/x86_64/mirror.list",
                "https://cdn.amazonlinux.com/al2023/core/releasemd.xml",
            ],
        ),
        ("6.18.48-109.150.amzn2023.x86_64", "kernel6.18-debuginfo-", ["https://cdn.amazonlinux.com/al2023/core"]),
        ("7.2.4-4.107.amzn2027.x86_64", "kernel7.2-debuginfo-", ["https://cdn-al2027.amazonlinux.com/core"]),
        # SUSE: the service pack from the number, Leap's own, other page sizes, later minor versions.
        ("5.3.18-59.40-default", "kernel-default-debuginfo-", [f"{LEAP}/update/leap/15.3/sle/"]),
        ("5.3.18-57-default", "kernel-default-debuginfo-", [f"{LEAP}/distribution/leap/15.3/repo/oss/"]),
        ("5.3.18-lp152.19.2-default", "kernel-default-debuginfo-", [f"{LEAP}/update/leap/15.2/oss/"]),
        ("5.14.21-150500.13.24-rt", "kernel-rt-debuginfo-", [f"{LEAP}/update/leap/15.5/sle/"]),
        ("6.12.0-160000.26-64kb", "kernel-64kb-debuginfo-", [f"{LEAP}/distribution/leap/16.0/repo/oss/"]),
        ("6.12.0-160100.5-default", "kernel-default-debuginfo-", [f"{LEAP}/distribution/leap/16.1/repo/oss/"]),
        (
            "4.19.90-2106.3.0.0095.oe1.x86_64",
            "kernel-debuginfo-",
            [f"https://repo.openeuler.org/openEuler-20.03-LTS{sp}/update/x86_64" for sp in ("-SP3", "-SP1", "")],
        ),
        (
            "6.6.0-28.0.0.34.oe2403sp1.x86_64",
            "kernel-debuginfo-",
            ["https://repo.openeuler.org/openEuler-24.03-LTS-SP1/"],
        ),
        (
            "5.10.134-18.al8.x86_64",
            "kernel-debuginfo-",
            ["https://mirrors.aliyun.com/alinux/3/plus/x86_64/debug/kernel-"],
        ),
        (
            "4.19.91-28.7.al7.x86_64",
            "kernel-debuginfo-",
            ["https://mirrors.aliyun.com/alinux/2/kernels/x86_64/debug/ker"],
        ),
        ("4.19.91-26.an8.x86_64", "kernel-debuginfo-", ["https://mirrors.openanolis.cn/anolis/8/BaseOS/x86_64/debug/"]),
        ("6.6.102-5.2.an23.x86_64", "kernel-debuginfo-", ["https://mirrors.openanolis.cn/anolis/23/os/x86_64/debug/"]),
    ],
)
def test_package_and_places(release: str, package: str, places: list[str]) -> None:
    dump = kernel(release, build_id="01" * 20)
    names = package_names(dump, select(dump).distribution)
    assert names is not None
    assert [name for name in names.packages if name.startswith(package)] == list(names.packages) != []
    found = urls(dump)
    # All of them are asked, in this order.
    positions = [next((at for at, url in enumerate(found) if url.startswith(place)), place) for place in places]
    assert positions == sorted(at for at in positions if isinstance(at, int))
    # And nothing is left to be filled in.
    assert not [url for url in found if "{" in url.replace("{repository_version}", "")]


def test_a_debian_kernel_of_long_ago_is_asked_of_its_days() -> None:
    found = urls(kernel("6.1.0-21-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.90-1 (2024-05-03)"))
    archive = "deb [check-valid-until=no] http://snapshot.debian.org/archive"
    wanted = [
        f"{archive}/debian-security/20240507T000000Z bookworm-security main",
        f"{archive}/debian/20240507T000000Z bookworm-proposed-updates main",
        f"{archive}/debian/20240617T000000Z bookworm main",
    ]
    assert [line for line in found if line in wanted] == wanted
    assert found.index("deb http://deb.debian.org/debian bookworm main") < found.index(wanted[0])


@pytest.mark.parametrize(
    ("release", "version", "arch", "places"),
    [
        (
            "6.12.75+rpt-rpi-v8",
            "#1 SMP PREEMPT Debian 1:6.12.75-1+rpt1 (2026-03-11)",
            "aarch64",
            [
                f"{RASPBERRY_PI}/linux-image-6.12.75+rpt-rpi-v8-dbg_6.12.75-1+rpt1_arm64.deb",
            ],
        ),
        (
            "6.17.13-4-pve",
            "#1 SMP PREEMPT_DYNAMIC PMX 6.17.13-4 (2026-04-21T22:03Z)",
            "x86_64",
            [
                f"{PVE}/trixie/{component}/binary-amd64/proxmox-kernel-6.17.13-4-pve-dbgsym_6.17.13-4_amd64.deb"
                for component in ("pve-no-subscription", "pvetest")
            ],
        ),
        (
            "5.15.158-2-pve",
            "#1 SMP PVE 5.15.158-2 (2024-07-24T13:05Z)",
            "x86_64",
            [
                f"{PVE}/bullseye/{component}/binary-amd64/pve-kernel-5.15.158-2-pve-dbgsym_5.15.158-2_amd64.deb"
                for component in ("pve-no-subscription", "pvetest")
            ],
        ),
    ],
)
def test_packages_that_uname_v_names(release: str, version: str, arch: str, places: list[str]) -> None:
    assert urls(kernel(release, version, arch=arch, build_id="01" * 20)) == places


@pytest.mark.parametrize(
    ("release", "package"),
    [
        ("6.6.117.1-1.azl3", "kernel-debuginfo-6.6.117.1-1.azl3.x86_64.rpm"),
        ("6.12.57.1-2.azl3", "kernel-hwe-debuginfo-6.12.57.1-2.azl3.x86_64.rpm"),
        ("6.6.135.mshv2-1.azl3", "kernel-mshv-debuginfo-6.6.135.mshv2-1.azl3.x86_64.rpm"),
        ("6.18.31-1.12.azl4.x86_64", "kernel-debuginfo-6.18.31-1.12.azl4.x86_64.rpm"),
        ("5.15.138.1-1.cm2", "kernel-debuginfo-5.15.138.1-1.cm2.x86_64.rpm"),
    ],
)
def test_each_kernel_of_azure_linux_is_a_package_of_its_own_place(release: str, package: str) -> None:
    places = {
        ".azl4": ["azurelinux/4.0/prod", "azurelinux/4.0/beta"],
        ".azl3": ["azurelinux/3.0/prod"],
        ".cm2": ["cbl-mariner/2.0/prod"],
    }
    asked = [url for url in urls(kernel(release, arch="x86_64")) if url.endswith(f"/{package}")]
    base = "https://packages.microsoft.com"
    expected = next(found for mark, found in places.items() if mark in release)
    assert asked == [f"{base}/{place}/base/debuginfo/x86_64/Packages/k/{package}" for place in expected]


def test_stream_alone_is_in_koji_and_other_kernels_are_not_asked_there() -> None:
    assert not [url for url in urls(kernel("5.14.0-427.18.1.el9_4.x86_64", build_id="01" * 20)) if "koji" in url]


def test_the_service_pack_that_leap_never_had_is_asked_nowhere() -> None:
    assert urls(kernel("6.4.0-150700.53.3-default")) == []
    rules = by_name("sles-15").debuginfo
    assert rules is not None
    assert any("subscribers" in why for why in rules.unpublished.values())


NEWEST = ["2023.12.20260817", "2023.11.20260608", "2023.9.20260601", "2023.0.20230222"]
AMAZON = "#1 SMP PREEMPT_DYNAMIC Tue Jun  2 17:26:01 UTC 2026"
LIST = "<version>2023.0.20230222</version> <version>2023.9.20260601</version> 2023.11.20260608 2023.12.20260817"


@pytest.mark.parametrize(
    ("said", "versions"),
    [
        (AMAZON, ["2023.11.20260608", "2023.12.20260817"]),
        (None, NEWEST),
        (AMAZON.replace("2026", "2027"), NEWEST),
        ("#1 SMP Tue Xyz 99 17:26:01 UTC 2026", NEWEST),
    ],
)
def test_versions_of_a_repository_begin_with_the_first_after_the_build(said: str | None, versions: list[str]) -> None:
    (question,) = (
        one for one in asked(kernel("6.1.90-99.173.amzn2023.x86_64", said)) if isinstance(one, VersionedRepositories)
    )
    assert (question.built == date(2026, 6, 2)) is (said == AMAZON)
    found = question.versions(LIST)
    assert found == versions
    assert question.of(found[0])[0].endswith(f"/mirrors/{found[0]}/debuginfo/x86_64/mirror.list")


@pytest.mark.parametrize(
    ("banner", "name"),
    [
        ("Linux version 6.12.0-31.el10.x86_64 (mockbuild@694f893baa82435fb52e73f7c6675ecf) (gcc)", "centos"),
        ("Linux version 5.14.0-503.el9.x86_64 (mockbuild@jenkins-10-147-72-125-0a1b2c3d) (gcc)", "oracle"),
        ("Linux version 6.8.9-300.fc40.x86_64 (mockbuild@694f893baa82435fb52e73f7c6675ecf) (gcc)", None),
    ],
)
def test_build_hosts_without_a_domain(banner: str, name: str | None) -> None:
    assert vendor(banner) == name

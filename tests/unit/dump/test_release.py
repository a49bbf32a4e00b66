import csv
from pathlib import Path

import pytest

from sandbox.dump.release import classify, vendor

TABLE = Path(__file__).resolve().parents[2] / "fixtures" / "releases.tsv"


def rows():
    with TABLE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["release"])
def test_table(row):
    found = classify(row["release"], row["utsname_version"] or None)
    assert found.klass == row["class"]
    assert (found.variant or "") == (row["variant"] or "")
    assert (found.arch or "") == (row["arch"] or "")
    assert (found.flavour or "") == (row["flavour"] or "")


@pytest.mark.parametrize(
    ("release", "version", "klass"),
    [
        ("6.12.9+bpo-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.9-1~bpo12+1 (2025-01-19)", "debian:12"),
        ("6.8.11-amd64", "#1 SMP PREEMPT_DYNAMIC Kali 6.8.11-1kali2 (2024-05-30)", "kali"),
        ("6.8.12-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.8.12-1 (2024-05-31)", "debian:sid"),
        ("6.8.12-amd64", None, "unknown"),
        ("6.12.74+deb13+1-amd64", None, "debian:13"),
        ("5.3.18-57-default", None, "sle:15.SP3"),
        ("4.4.155-68-default", None, "unknown"),
        ("3.12.61-52.141-default", None, "sle:12"),
        ("2.6.32.12-0.7-default", None, "sle:11.SP1"),
        ("5.14.21-150000.1-default", None, "sle:15"),
        ("6.9.3-060903-generic", None, "ubuntu-mainline"),
        ("6.1.0-1036-oem", None, "ubuntu:22.04"),
        ("4.18.0-193.el9.x86_64", None, "unknown"),
        ("6.12.0-55.el8.x86_64", None, "unknown"),
        ("4.18.0-477.13.1.lve.el8.x86_64", None, "cloudlinux:8"),
        ("5.14.0-284.30.1.el9_2.92ciq_lts.7.1.x86_64", None, "unknown"),
        ("6.11.0-0.rc3.20240814git6b0f8db921ab.32.fc42.x86_64", None, "fedora:42"),
        ("6.9.3-arch1-1", None, "arch-like"),
        ("6.6.32-0-virt", None, "alpine"),
        ("6.9.0+", None, "vanilla"),
        ("", None, "unknown"),
        ("x" * 10_000, None, "unknown"),
        ("1" * 10_000, None, "unknown"),
    ],
)
def test_others(release, version, klass):
    assert classify(release, version).klass == klass


def test_minor():
    assert classify("4.18.0-553.16.1.el8_10.aarch64").minor == "10"
    assert classify("5.14.21-150400.24.103-default").minor == "SP4"
    assert classify("4.18.0-193.el8.x86_64").minor is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("mockbuild@x86-64-02.build.eng.rdu2.redhat.com", "rhel"),
        ("mockbuild@x86-vm-10.build.eng.bos.redhat.com", "rhel"),
        ("mockbuild@x86-05.stream.rdu2.redhat.com", "centos"),
        ("mockbuild@kbuilder.bsys.centos.org", "centos"),
        ("mockbuild@x64-builder02.almalinux.org", "alma"),
        ("mockbuild@iad1-prod-build001.bld.equ.rockylinux.org", "rocky"),
        ("mockbuild@host-100-100-224-41", "oracle"),
        ("debian-kernel@lists.debian.org", None),
        ("root@localhost", None),
    ],
)
def test_vendor(host, name):
    banner = f"Linux version 5.14.0-70.el9.x86_64 ({host}) (gcc (GCC) 11.2.1) #1 SMP Thu Feb 24 19:11:22 UTC 2022"
    assert vendor(banner) == name

import csv
from pathlib import Path

import pytest

from sandbox.dump.release import classify, vendor
from sandbox.model import kernel_version

TABLE = Path(__file__).resolve().parents[2] / "fixtures" / "releases.tsv"


def rows():
    with TABLE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_table():
    """One test for all rows: the difference names those that are wrong."""
    expected = [{name: row[name] or "" for name in row} for row in rows()]
    found = []
    for row in expected:
        kernel = classify(row["release"], row["utsname_version"] or None)
        found.append(
            row
            | {"class": kernel.klass, "variant": kernel.variant or "", "arch": kernel.arch or ""}
            | {"flavour": kernel.flavour or ""}
        )
    assert found == expected


OTHERS = [
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
    ("6.12.0-1.23.3.2.el10uek.aarch64+64k", None, "oracle-uek:10"),
    ("7.1.0-0.rc7.260605gabcdef012345.52.fc45.x86_64+debug", None, "fedora:45"),
    ("6.12.57.1-2.azl3", None, "azurelinux:3"),
    ("6.12.0-160100.3-default", None, "sle:16.1"),
    ("7.0.10-1.el10.elrepo.x86_64", None, "elrepo:10"),
    ("7.0.12-200.fc44.x86_64", None, "fedora:44"),
    ("6.14.0-1018-aws", None, "ubuntu:24.04"),
    ("6.14.0-1018-aws", "#18-Ubuntu SMP", "ubuntu:25.04"),
    ("6.17.0-1004-raspi", None, "ubuntu:25.10"),
    ("7.2.0-5-generic", "#5-Ubuntu SMP PREEMPT_DYNAMIC", "ubuntu:26.10"),
    ("7.1.0-10-generic", "#10-Ubuntu SMP PREEMPT_DYNAMIC", "ubuntu:devel"),
    ("7.1.0-10-generic", "#10-Kylin SMP", "unknown"),
    ("7.1.0-10-generic", None, "unknown"),
    # Kernels that nobody of vmbox's data builds: no guess.
    ("6.18.7-x64v3-xanmod1", None, "unknown"),
    ("6.18-5.1-liquorix-amd64", None, "unknown"),
    ("6.12.24-Unraid", None, "unknown"),
    ("5.10.60-qnap", None, "unknown"),
    ("6.16.12-valve10-1-neptune-616-gabcdef1", None, "unknown"),
    ("6.12.51-haos-raspi", None, "unknown"),
    ("6.17.7-200.nobara.fc42.x86_64", None, "unknown"),
    ("6.12.58-current-rockchip64", None, "unknown"),
    ("6.9.3-arch1-1", None, "arch-like"),
    ("6.6.32-0-virt", None, "alpine"),
    ("6.9.0+", None, "vanilla"),
    ("5.14.21-150500.55.44-64kb", None, "sle:15.SP5"),
    ("6.12.48+deb13-powerpc64le-64k", None, "debian:13"),
    ("4.12.14-150100.197.180-default", None, "sle:15.SP1"),
    ("6.12.22-31.99.amzn2023.x86_64", None, "amazon:2023"),
    ("6.14.0-1006-aws", "#6~24.04.1-Ubuntu SMP", "ubuntu:24.04"),
    ("5.0.0-23-generic", "#24~18.04.1-Ubuntu SMP", "ubuntu:18.04"),
    ("5.4.17-2136.307.3.1.el7uek.aarch64+debug", None, "oracle-uek:7"),
    ("6.9.3-76060903-generic", "#202405300957~1726766035~22.04~4092a0e SMP PREEMPT_DYNAMIC", "pop-os"),
    ("4.14.96-coreos-r1", None, "coreos"),
    # of a distribution's version, but not its kernel of that version
    ("6.1.23-1.el9.x86_64", None, "unknown"),
    ("5.15.117-1.el8.x86_64", None, "unknown"),
    ("5.14.0-503.el10.x86_64", None, "unknown"),
    ("3.10.0-1160.el8.x86_64", None, "unknown"),
    ("5.14.0-284.30.1.el9_2.cern.x86_64", None, "unknown"),
    ("4.18.0-305.el8.azure.x86_64", None, "unknown"),
    ("4.18.0-193.6.3.el8_2.v1.4.x86_64", None, "unknown"),
    ("4.19.90-vhulk2103.1.0.h425.eulerosv2r9.x86_64", None, "unknown"),
    ("6.6.16-linuxkit", None, "unknown"),
    ("6.6.44-production+truenas", None, "unknown"),
    ("6.1.0-26mx-ahs-amd64", None, "unknown"),
    ("6.10.7-x64v3-xanmod1", None, "unknown"),
    ("5.15.0-91-generic-tuxedo", None, "unknown"),
    # rebuilt by somebody: debuginfo of that name is another's
    ("4.18.0-240.22.1.el8_3.x86_64_lustre", None, "unknown"),
    ("5.14.0-427.31.1_lustre.el9.x86_64", None, "unknown"),
    ("4.18.0-147.8.1.el8.bclinux.x86_64", None, "unknown"),
    ("5.15.0-33-generic", "#astra1 SMP Wed Apr 12 12:00:00 UTC 2023", "unknown"),
    ("5.4.18-35-generic", "#21-KYLINOS SMP Wed Dec 7 05:20:05 UTC 2022", "unknown"),
    ("5.4.18-35-generic", None, "unknown"),
    ("6.1.0-13-amd64", "#1 SMP PREEMPT_DYNAMIC Deepin 1", "unknown"),
    ("6.8.0-custom", None, "unknown"),
    # Enterprise Linux at its edges
    ("2.6.39-400.17.1.el6uek.x86_64", None, "oracle-uek:6"),
    ("2.6.39-100.5.1.el5uek", None, "oracle-uek:5"),
    ("2.6.33.9-rt31.86.el6rt.x86_64", None, "rhel:6"),
    ("4.14.0-49.el7a.noaa.aarch64", None, "rhel:7"),
    ("4.5.0-32.el7.aarch64", None, "rhel:7"),
    ("6.11.0-29.el10.x86_64", None, "rhel:10"),
    ("5.14.0-687.el9.aarch64+rt-64k", None, "rhel:9"),
    ("2.6.32-042stab120.20", None, "openvz:6"),
    ("3.10.0-1160.119.1.vz7.224.4", None, "virtuozzo:7"),
    ("2.6.35.6-45.fc14.x86_64", None, "fedora:14"),
    ("2.6.23.1-42.fc8", None, "fedora:8"),
    ("6.11.0-400.asahi.fc41.aarch64+16k", None, "fedora-asahi:41"),
    ("5.4.119-19-0009.11", None, "tencentos:3"),
    ("5.4.241-1-tlinux4-0017.1", None, "tencentos:3"),
    ("4.14.105-19-0024", None, "tencentos:2"),
    ("6.6.58-desktop-1.mga9", None, "mageia:9"),
    ("5.14.0-362.24.1.el9_3.0.1.x86_64", None, "rhel:9.3"),
    # SUSE for Azure counted for itself
    ("4.12.14-6.34-azure", None, "sle:12.SP4"),
    ("4.12.14-16.91-azure", None, "sle:12.SP5"),
    ("5.3.18-18.66-azure", None, "sle:15.SP2"),
    ("5.3.18-38.34-azure", None, "sle:15.SP3"),
    ("4.15.0-1023-azure", None, "ubuntu:18.04"),
    ("4.4.82-6.3-default", None, "sle:12.SP3"),
    # Debian's and Ubuntu's relatives
    ("6.6.13+bpo-amd64", None, "debian:12"),
    ("6.12.38+kali-amd64", None, "kali"),
    ("6.8.12-8-bpo12-pve", None, "proxmox"),
    ("2.6.32-21-server", None, "ubuntu:10.04"),
    ("6.8.1-1015-realtime", None, "ubuntu:24.04"),
    ("5.4.0-1103-fips", None, "ubuntu:20.04"),
    ("6.12.25+rpt-rpi-v8-rt", None, "raspberrypi-os"),
    ("6.9.2-2-cachyos", None, "arch-like"),
    ("5.15.167.4-microsoft-standard-WSL2+", None, "wsl:2"),
    ("6.1.38-rt12", None, "vanilla"),
    ("6.9.0-rc7-00012-g5eb4573ea63d-dirty", None, "vanilla"),
    ("", None, "unknown"),
    ("x" * 10_000, None, "unknown"),
    ("1" * 10_000, None, "unknown"),
]


def test_others():
    found = [(release, version, classify(release, version).klass) for release, version, _ in OTHERS]
    assert found == OTHERS


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


@pytest.mark.parametrize(
    ("release", "version"),
    [("9" * 5000 + ".1", (0, 0)), ("1." + "9" * 5000, (1, 10**9 - 1)), ("\u0665.1", (0, 0)), ("\u00b2.1", (0, 0))],
)
def test_numbers_that_no_kernel_has(release, version):
    assert kernel_version(release) == version

"""vmbox info --release: what is known of a kernel by its name alone."""

import json

import pytest

from sandbox.description import show_release


def shown(capsys, release, version=None):
    show_release(release, version, json=True)
    return json.loads(capsys.readouterr().out)


def test_enterprise_linux_has_several_vendors(capsys):
    found = shown(capsys, "4.18.0-553.16.1.el8_10.aarch64")
    assert (found["class"], found["profile"]) == ("rhel:8.10", "el8")
    assert found["debuginfo"] == ["kernel-debuginfo-4.18.0-553.16.1.el8_10.aarch64"]
    vendors = {source.partition(": ")[0] for source in found["sources"]}
    assert {"rocky", "alma", "oracle"} <= vendors
    assert all("kernel-debuginfo-4.18.0-553.16.1.el8_10.aarch64.rpm" in source for source in found["sources"])


@pytest.mark.parametrize(
    ("version", "package"),
    [
        (None, "linux-image-6.1.0-56-cloud-amd64-dbg"),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)", "linux-image-6.1.0-56-cloud-amd64-dbg=6.1.192-2"),
    ],
)
def test_debian_needs_uname_v_for_the_exact_package(capsys, version, package):
    found = shown(capsys, "6.1.0-56-cloud-amd64", version)
    assert (found["class"], found["profile"], found["debuginfo"]) == ("debian:12", "latest", [package])
    assert any(source.startswith("deb ") for source in found["sources"])


def test_unknown_is_said(capsys):
    assert shown(capsys, "hello")["class"] == "unknown"
    show_release("hello", None, json=False)
    assert "CLASS: unknown" in capsys.readouterr().out

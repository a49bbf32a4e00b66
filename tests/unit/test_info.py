"""What vmbox info adds to what a dump says; and what is known of a kernel by its name alone (--release)."""

import json
from pathlib import Path

import pytest

from sandbox.commands.info import describe, facts, show_release
from sandbox.debuginfo.store import About, Store
from sandbox.dump import identify


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


def test_debuginfo_that_is_here_is_shown_with_its_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vmcore = identify(Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-zlib")
    assert vmcore.build_id is not None
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path))
    assert describe(vmcore)["debuginfo"] is None
    store = Store(tmp_path)
    with store.new(vmcore.build_id) as directory:
        (directory / "vmlinux").write_bytes(b"")
        store.keep(
            directory,
            About(
                build_id=vmcore.build_id,
                banners=(),
                origin="http://archive.example/k.deb",
                verified="its hash",
                check="hash",
            ),
        )
    here = {
        "vmlinux": str(tmp_path / "debuginfo" / vmcore.build_id / "vmlinux"),
        "proof": f"build-id {vmcore.build_id}",
        "origin": "http://archive.example/k.deb",
        "verified": "its hash",
        "check": "hash",
    }
    assert describe(vmcore)["debuginfo"] == here
    assert [value for name, value in facts(vmcore) if name in {"DEBUGINFO", "AGREES", "FROM", "CHECKED"}] == [
        here[name] for name in ("vmlinux", "proof", "origin", "verified")
    ]

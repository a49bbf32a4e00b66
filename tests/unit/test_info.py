"""What vmbox info adds to what a dump says; and what is known of a kernel by its name alone (--release)."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.commands.info import describe, facts, show, show_release
from sandbox.debuginfo import RemotePackage, certificates, locate, repodata
from sandbox.debuginfo.store import About, Store
from sandbox.dump import identify
from sandbox.dump.header_only import OPENED_BY
from sandbox.dump.reader import reads_memory
from sandbox.dump.release import of_release
from sandbox.errors import DebuginfoNotFound
from sandbox.model import DumpFormat
from sandbox.profiles import select

DUMPS = Path(__file__).parents[1] / "fixtures" / "dumps"

module = importlib.import_module("sandbox.debuginfo.locate")
"""Whose package has a function of the same name."""


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


def _releases() -> list[tuple[str, str]]:
    lines = (Path(__file__).parents[1] / "fixtures" / "releases.tsv").read_text().splitlines()[1:]
    return [(release, version) for release, version, *_ in (line.split("\t") for line in lines)]


@pytest.mark.slow
@pytest.mark.parametrize(("release", "version"), _releases())
def test_what_is_printed_is_what_run_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str, version: str
) -> None:
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    asked: list[str] = []

    def fetch(order: object, remote: RemotePackage, *_: object) -> None:
        asked.append(remote.url)
        raise DebuginfoNotFound("nothing is there")

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(repodata, "find", lambda base, *_: asked.append(base) or [])
    # With a subscription.
    monkeypatch.setattr(certificates, "require", lambda _: None)
    monkeypatch.setattr(repodata, "text", lambda index, *_: asked.append(index) or "2023.9.20260601")
    dump = replace(of_release(release, version or None), build_id="01" * 20)
    with pytest.raises(DebuginfoNotFound):
        locate(
            dump, select(dump).distribution, package_query=lambda _, lines: asked.extend(lines) or (), cache=tmp_path
        )
    printed = [source.partition(": ")[2] or source for source in shown(capsys, release, version or None)["sources"]]
    printed = [source.replace("{build-id}", "01" * 20) for source in printed]
    printed = [source.replace("{repository_version}", "2023.9.20260601") for source in printed]
    if any("{" in source for source in printed):
        # What only uname -v, or the dump, tells is not asked without it.
        assert set(asked) <= set(printed)
    else:
        assert list(dict.fromkeys(asked)) == printed


@pytest.mark.parametrize(
    ("release", "said"),
    [
        ("6.4.0-150700.53.28-default", "SCC"),
        ("6.4.0-29-default", "SUSE Linux Micro 6"),
        ("5.15.0-157-fips", "private archives"),
        ("6.17.13-4-pve", "on request only"),
        ("6.12.50-0-lts", "Alpine publishes no debug information"),
        ("6.12.82-flatcar", "sys-kernel/coreos-kernel"),
        ("6.12.55+", "cos-tools/BUILD_ID/vmlinux"),
        ("6.1.21-v8+", "rpi-update"),
        ("6.1.0-44-amd64", None),
    ],
)
def test_info_says_why_run_will_find_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, said: str | None
) -> None:
    found = shown(capsys, release)["unpublished"]
    if said is None:
        assert found is None
        return
    assert said in found
    show_release(release, None, json=False)
    assert f"UNPUBLISHED: {found}" in capsys.readouterr().out
    dump = of_release(release, None)
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    monkeypatch.setattr(module, "fetch", lambda *_: pytest.fail("nothing was to be fetched"))
    with pytest.raises(DebuginfoNotFound) as caught:
        locate(dump, select(dump).distribution, package_query=lambda *_: (), cache=tmp_path)
    assert found in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("version", "klass", "also"),
    [
        (None, "ubuntu:24.04", "ubuntu:25.04"),
        ("#29-Ubuntu SMP PREEMPT_DYNAMIC Thu Aug  7 18:32:38 UTC 2025", "ubuntu:25.04", None),
        ("#29~24.04.1-Ubuntu SMP PREEMPT_DYNAMIC Thu Aug 14 16:52:50 UTC 2025", "ubuntu:24.04", None),
    ],
)
def test_two_that_only_uname_v_tells_apart_are_both_named(
    capsys: pytest.CaptureFixture[str], version: str | None, klass: str, also: str | None
) -> None:
    found = shown(capsys, "6.14.0-29-generic", version)
    assert (found["class"], found["also"]) == (klass, also)
    show_release("6.14.0-29-generic", version, json=False)
    line = f"CLASS: {klass}" + (f", or {also}: uname -v tells (--utsname-version)" if also else "")
    assert line in [shown.strip() for shown in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (("4.15.0-213-generic", "#224-Ubuntu SMP Mon Jun 19 13:30:12 UTC 2023"), None),
        (("4.15.0-250-generic", "#261-Ubuntu SMP Wed Nov 5 10:00:00 UTC 2025"), "since 2023-08-01"),
        (("5.4.0-216-generic", "#236-Ubuntu SMP Fri Apr 11 19:53:21 UTC 2025"), None),
        (("5.15.0-160-generic", "#170~20.04.1-Ubuntu SMP Wed Nov 5 10:00:00 UTC 2025"), "since 2025-08-01"),
        (("5.15.0-160-generic", "#170-Ubuntu SMP Wed Nov 5 10:00:00 UTC 2025"), None),
        (("3.13.0-170-generic", "#220-Ubuntu SMP Thu May 9 12:40:49 UTC 2019"), None),
        (("4.4.0-276-generic", "#310~14.04.1-Ubuntu SMP Wed Nov 5 10:00:00 UTC 2025"), "since 2019-07-01"),
        (("4.4.0-276-generic", "#310-Ubuntu SMP"), None),
    ],
)
def test_kernels_after_the_end_of_standard_support_are_for_subscribers(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kernel: tuple[str, str],
    said: str | None,
) -> None:
    why = shown(capsys, *kernel)["unpublished"]
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)

    def absent(*_: object) -> None:
        raise DebuginfoNotFound("nothing is there")

    monkeypatch.setattr(module, "fetch", absent)
    dump = replace(of_release(*kernel), arch="x86_64")
    with pytest.raises(DebuginfoNotFound) as caught:
        locate(dump, select(dump).distribution, package_query=lambda *_: (), cache=tmp_path)
    if said is None:
        assert why is None
        assert "Ubuntu Pro" not in (caught.value.detail or "")
    else:
        assert said in why
        assert why in (caught.value.detail or "")


@pytest.mark.parametrize("release", ["5.14.0-427.13.1.el9_4", "6.6.0-98.0.0.103.oe2403sp2"])
def test_a_release_whose_machine_was_left_out_has_a_hint(capsys: pytest.CaptureFixture[str], release: str) -> None:
    show_release(release, None, json=False)
    said = capsys.readouterr()
    assert "CLASS: unknown" in said.out
    assert said.err == f"hint: uname -r of it ends with the machine: vmbox info --release {release}.x86_64\n"
    assert shown(capsys, f"{release}.x86_64")["class"] != "unknown"


def test_unknown_is_said(capsys):
    assert shown(capsys, "hello")["class"] == "unknown"
    show_release("hello", None, json=False)
    said = capsys.readouterr()
    assert ("CLASS: unknown" in said.out, said.err) == (True, "")


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


OOPSED = """[    0.000000] Linux version 6.1.0-9-amd64 (a@b) #1 SMP
[    5.000000] BUG: kernel NULL pointer dereference, address: 0000000000000000
[    5.000001] Oops: 0002 [#1] PREEMPT SMP
[    5.000002] CPU: 0 PID: 7 Comm: sh Not tainted 6.1.0-9-amd64 #1
[    5.000003] RIP: 0010:sysrq_handle_crash+0x16/0x20
[    5.000004] Call Trace:
[    5.000005]  <TASK>
[    5.000006]  write_sysrq_trigger+0x4b/0x60
[    5.000007]  do_syscall_64+0x55/0xb0
[    5.000008]  </TASK>
[    5.000009] ---[ end trace 0000000000000000 ]---
[    5.100000] Kernel panic - not syncing: """


@pytest.mark.parametrize(
    ("end", "remark"),
    [
        ("Fatal exception\n", None),
        ("hung_task: blocked tasks\n", "the panic has no call trace, as none has after an oops: a program could have"),
        ("Fatal exception\n" * 2, "the log has 2 panics; the last one counts"),
    ],
)
def test_info_of_a_log_says_what_its_report_says_of_the_panic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: str, remark: str | None
) -> None:
    log = tmp_path / "log"
    log.write_text(OOPSED + end.replace("\n", "\n[    5.100001] Kernel panic - not syncing: ", end.count("\n") - 1))
    show(log, json=True)
    said = json.loads(capsys.readouterr().out)["log_remark"]
    assert (said is None) if remark is None else str(said).startswith(remark)
    show(log, json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "REMARK: " in line]
    assert lines == ([] if said is None else [f"REMARK: {said}"])


def test_a_format_whose_header_alone_is_read_names_what_opens_it(tmp_path):
    path = tmp_path / "a machine.save"
    path.write_bytes(b"LibvirtQemudSave".ljust(4096, b"\0"))
    said = dict(facts(identify(path)))
    assert said["FORMAT"] == "libvirt-save"
    assert f"virsh restore '{path}' --paused; virsh dump --memory-only DOMAIN vmcore" in said["OPENED BY"]
    assert "OPENED BY" not in dict(facts(identify(DUMPS / "x86_64-6.1-zlib")))


@pytest.mark.parametrize("kind", [one for one in DumpFormat if one not in {"flattened", "log", "sosreport", "release"}])
def test_each_format_is_read_or_says_what_opens_it(kind):
    assert reads_memory(kind) != (kind in OPENED_BY)

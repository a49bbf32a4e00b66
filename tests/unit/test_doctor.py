"""Doctor on several kinds of host: the tests write the host's files, and servers listen on loopback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from listening import listening
from sandbox import profiles, render
from sandbox.commands import doctor, servers
from sandbox.commands.doctor import Finding
from sandbox.engine.messages import build_lines
from sandbox.errors import EngineFailed, EngineNotFound, ImageBuildFailed
from sandbox.host import checks


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Finding]]:
    """The findings of a subject, on a host without an engine."""

    def connect(name: str) -> None:
        raise EngineNotFound(name)

    monkeypatch.setattr(doctor, "connect", connect)
    # No setting, so that doctor would name it.
    monkeypatch.delenv("VMBOX_TEST_CACHE", raising=False)
    for kind in ("cache", "runtime", "state", "config"):
        monkeypatch.setenv(f"VMBOX_{kind.upper()}_DIR", str(tmp_path / kind))
    return lambda subject: [one for one in doctor.examine(offline=True) if one.subject == subject]


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


READY = {
    "etc/subuid": "nobody:100000:65536\n",
    "etc/subgid": "65534:100000:65536\n",
    "proc/sys/user/max_user_namespaces": "15000\n",
    "sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
    "sys/fs/cgroup/user.slice/user-65534.slice/user@65534.service/cgroup.controllers": "memory pids\n",
}


@pytest.mark.parametrize(
    ("change", "obstacle", "mended"),
    [
        ({}, "", ""),
        ({"etc/subuid": "somebody:1:1\n"}, "no range in /etc/subuid", "--add-subuids 100000-165535 nobody"),
        ({"etc/subgid": ""}, "no range in /etc/subgid", "--add-subgids"),
        ({"proc/sys/user/max_user_namespaces": "0"}, "namespaces are off", "user.max_user_namespaces"),
        ({"proc/sys/kernel/unprivileged_userns_clone": "0"}, "root only", "unprivileged_userns_clone=1"),
        (
            {"sys/fs/cgroup/user.slice/user-65534.slice/user@65534.service/cgroup.controllers": "pids"},
            "controllers memory are not delegated",
            "Delegate=memory",
        ),
    ],
)
def test_rootless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], obstacle: str, mended: str
) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    found = list(checks.rootless_obstacles(_write(tmp_path, READY | change), uid=65534))
    assert len(found) == bool(change)
    for text, hint in found:
        assert obstacle in text
        assert mended in hint


def test_cgroups_of_both_versions(tmp_path: Path) -> None:
    old, new = {"sys/fs/cgroup/memory/tasks": ""}, {"sys/fs/cgroup/cgroup.controllers": ""}
    hybrid = {"sys/fs/cgroup/unified/cgroup.procs": ""}
    found = [checks.hybrid_cgroups(_write(tmp_path / str(n), kind)) for n, kind in enumerate([old, new, hybrid])]
    assert found == [False, False, True]
    # The error of Podman 4.3 with crun 1.8 on such a host, without runc.
    said = "error running container: from /usr/bin/crun creating container: cgroups in hybrid mode not supported, drop"
    with pytest.raises(EngineFailed, match="hybrid") as raised:
        list(build_lines([{"stream": f"{said}\n"}, {"error": "while running runtime: exit status 1"}], "image"))
    assert "install runc" in str(raised.value.hint)


def test_a_build_that_installs_a_library_of_selinux_and_fails() -> None:
    said = [{"stream": "Setting up libselinux1 (3.8)\n"}, {"error": "while running runtime: exit status 100"}]
    with pytest.raises(ImageBuildFailed) as raised:
        list(build_lines(said, "image"))
    assert "above" in str(raised.value.hint)


def test_cgroup_v1_and_no_newuidmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda *_, **__: None)
    old = {name: text for name, text in READY.items() if "cgroup" not in name}
    texts = [text for text, _ in checks.rootless_obstacles(_write(tmp_path, old), uid=65534)]
    assert texts == ["newuidmap is not installed", "cgroup v1: memory limits do not hold"]


def test_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes.util

    device = tmp_path / "dev" / "fuse"
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name)
    assert checks.fuse_obstacle(tmp_path) == ("there is no /dev/fuse", "sudo modprobe fuse")
    device.parent.mkdir()
    device.touch()
    assert checks.fuse_obstacle(tmp_path) is None
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, who runs CI, may open it
    assert checks.fuse_obstacle(tmp_path) == ("/dev/fuse cannot be opened", "sudo chmod 666 /dev/fuse")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    said, fix = checks.fuse_obstacle(tmp_path) or ("", "")
    assert (said, "apt-get install fuse3" in fix) == ("libfuse is not installed", True)


def test_a_library_for_dumps_elsewhere_that_is_missing_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, found: Callable[[str], list[Finding]]
) -> None:
    there = {"botocore": None, "asyncssh": None, "indexed_gzip": object()}
    monkeypatch.setattr("importlib.util.find_spec", there.__getitem__)
    told = found("extras")
    assert [one.good for one in told] == [True] * 3
    assert ["not read" in one.text for one in told] == [True, True, False]
    assert ["vmbox-crash[remote]" in one.hint for one in told] == [True, True, False]


def test_emulation(tmp_path: Path) -> None:
    entry = "enabled\ninterpreter /usr/libexec/qemu-binfmt/x\nflags: {}\noffset 0\n"
    place = "proc/sys/fs/binfmt_misc/"
    files = {f"{place}qemu-aarch64": entry.format("POCF"), f"{place}qemu-s390x": entry.format("PO")}
    assert checks.emulated(_write(tmp_path, files), machine="x86_64") == (["aarch64"], ["ppc64le", "s390x"])


@pytest.mark.parametrize(
    ("there", "command"),
    [
        ([], "sudo apt-get install qemu-user-static binfmt-support   (dnf install qemu-user-static)"),
        (["run/systemd/system/x"], "sudo apt-get install qemu-user-static binfmt-support"),
        (["usr/bin/qemu-s390x-static", "run/systemd/system/x"], "sudo systemctl restart systemd-binfmt"),
        (["usr/bin/qemu-s390x-static", "usr/sbin/update-binfmts"], "sudo update-binfmts --enable qemu-s390x"),
        (["usr/bin/qemu-s390x-static"], "sudo apt-get install binfmt-support"),
    ],
)
def test_one_command_sets_emulation_up(tmp_path: Path, there: list[str], command: str) -> None:
    assert checks.emulation_fix("s390x", _write(tmp_path, dict.fromkeys(there, ""))).startswith(command)


@pytest.mark.parametrize(("text", "state"), [("1", "enforcing"), ("0\n", "permissive"), (None, "off")])
def test_selinux(tmp_path: Path, text: str | None, state: str) -> None:
    assert checks.selinux(_write(tmp_path, {} if text is None else {"sys/fs/selinux/enforce": text})) == state


@pytest.fixture
def server() -> Iterator[str]:
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with listening(Refuses) as port:
        yield f"http://127.0.0.1:{port}/"


def test_a_server_with_any_answer_is_reachable(server: str) -> None:
    # Nothing listens on port 9 (discard).
    answers = servers.probe([server, "http://127.0.0.1:9/"])
    assert answers[server] is None
    assert "refused" in str(answers["http://127.0.0.1:9/"])


def test_urls_are_rewritten_to_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    debian = [profiles.by_name("debian-12")]
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    assert "https://registry-1.docker.io/v2/" in servers.registries(debian)
    assert "http://deb.debian.org/" in servers.archives(debian)
    monkeypatch.setenv("VMBOX_MIRRORS", "docker.io=127.0.0.1:5000/hub http://deb.debian.org=http://mirror.example:81/x")
    assert servers.registries(debian) == {"http://127.0.0.1:5000/v2/"}
    assert "http://mirror.example:81/" in servers.archives(debian)
    assert "http://deb.debian.org/" not in servers.archives(debian)


@pytest.mark.parametrize("name", sorted(profiles.load()))
def test_every_url_of_a_profile_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMBOX_MIRRORS", raising=False)
    profile = profiles.by_name(name)
    places = repr((profile.debuginfo, profile.image.sources, profile.base.bootstrap))
    addresses = {f"{scheme}://{host}/" for scheme, host in re.findall(r"(https?)://([^/\s'\"\]{}]+)", places)}
    assert servers.archives([profile]) == addresses


def test_only_tools_that_run_on_the_host_must_be_installed(
    monkeypatch: pytest.MonkeyPatch, found: Callable[[str], list[Finding]]
) -> None:
    chosen = {name: profiles.by_name(name) for name in ("el8", "debian-12", "photon")}
    monkeypatch.setattr(doctor, "load", lambda: chosen)
    monkeypatch.setattr(doctor.shutil, "which", lambda _name, **_: None)
    (dnf,), (mmdebstrap,) = found("dnf"), found("mmdebstrap")
    assert dnf.good
    assert dnf.text.endswith("without a registry: el8")
    assert not mmdebstrap.good
    assert mmdebstrap.hint == "sudo apt-get install mmdebstrap"
    assert mmdebstrap.text.endswith("without a registry: debian-12")


def test_findings_are_wrapped_only_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "   note  archives: not reached one.example, another.example, and-a-third.example (why)"
    assert render.hanging(text, indent=13) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    first, *more = render.hanging(text, indent=13).splitlines()
    assert first == "   note  archives: not reached one.example,"
    assert all(line.startswith(" " * 13) and len(line) <= 50 for line in more)
    assert " ".join([first, *(line.strip() for line in more)]) == text


def test_an_unwritable_directory_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, found: Callable[[str], list[Finding]]
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", "/proc/vmbox")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    (finding,) = found("cache")
    assert not finding.good
    assert finding.required
    assert "$VMBOX_CACHE_DIR" in finding.hint


def test_an_error_in_the_settings_is_first_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.toml").write_text("engin = 1\n")
    monkeypatch.setenv("VMBOX_CONFIG_DIR", str(tmp_path))
    vmbox, settings = doctor.examine(offline=True)
    assert vmbox.good
    assert not settings.good
    assert settings.required
    assert settings.hint == "did you mean engine?"

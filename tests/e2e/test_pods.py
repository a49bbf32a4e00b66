"""What `vmbox kube` prints, run by `podman kube play`; as a Pod, for Debian's Podman 4.3 knows no Job."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines import EngineUnderTest

Podman = Callable[..., str]


@pytest.fixture
def podman(podman_rootful: EngineUnderTest) -> Iterator[Podman]:
    """The podman command, speaking to the engine under test; the volumes that the manifest claims are there."""

    def run(*arguments: str, given: str | None = None) -> str:
        command = ["podman", "--remote", "--url", podman_rootful.url, *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    for name in ("vmcores", "vmbox-reports"):
        run("volume", "create", name)
    yield run
    run("volume", "rm", "--force", "vmcores", "vmbox-reports")


def test_a_pod_leaves_its_answers(podman: Podman, podman_rootful: EngineUnderTest, dumps, tmp_path: Path) -> None:
    def vmbox(*arguments: object) -> str:
        done = podman_rootful.run(*map(str, arguments))
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def volume(name: str) -> Path:
        return Path(podman("volume", "inspect", "--format", "{{.Mountpoint}}", name))

    dump = dumps.copy_for(podman_rootful, dumps())
    image = vmbox("image", "build", dump, "--no-modules").strip()
    manifest = vmbox("kube", dump, "--kind", "pod", "--memory", "2Gi", "--cpus", "1")
    shutil.copy(dump, volume("vmcores") / dump.name)
    podman("kube", "play", "--network", "none", "-", given=manifest)
    try:
        deadline = time.monotonic() + 240
        while not (left := list(volume("vmbox-reports").glob("*.answers"))) and time.monotonic() < deadline:
            time.sleep(1)
        said = podman("ps", "--all", "--format", "{{.Names}} {{.Status}}")
        (arrived,) = volume("vmbox-reports").glob("*.html")
        plain = arrived.read_text()
        assert left, (said, [podman("logs", line.split()[0]) for line in said.splitlines() if "crash" in line])
    finally:
        podman("kube", "down", "-", given=manifest)
        # Other tests open the same dump, and would find it there.
        podman("rmi", "--force", image)
    # A page came with them, made in the pod; the whole report is made here.
    assert "<summary>bt -l</summary>" in plain
    assert "sysrq_handle_crash" in plain
    page = tmp_path / "report.html"
    vmbox("report", dump, "--answers", left[0], "-o", page)
    text = page.read_text()
    assert "sysrq_handle_crash" in text
    assert "AGREES WITH: the log&#39;s call trace" in text
    assert "drgn: it was asked in the Job" in text
    # Nothing was opened for it.
    assert str(dump) not in vmbox("list")

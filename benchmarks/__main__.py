"""Prints one table: vmbox beside crash by hand, drgn, and an installation by hand, in one run on one machine.

    python -m benchmarks [--vmcore FILE] [--rounds N] [--no-install]

Without a dump, `vmbox demo` makes one. In each round both sides of a row are measured one after the other, and the
ratio is taken within the round, so that a busy machine slows both. "vmlinux as shipped" is the distribution's file,
its index hidden, in a container of the same image as vmbox uses. The installation is done once, in a container of the
distribution's base: the package index, crash and the kernel's debug package, then crash. vmbox starts with an empty
cache of debuginfo. Both have the base image.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import sandbox
from benchmarks.session import crash, seconds, shipped, vmbox
from sandbox import api, image, profiles
from sandbox.case import store
from sandbox.case.places import DUMP
from sandbox.engine import Bind, ContainerSpec, Engine, connect
from sandbox.host import paths
from sandbox.image.package_sources import apt_settings, source_lines

DRGN_BT = "from drgn.commands import run_command; run_command(prog, 'crash bt')"
DRGN = "import drgn, sys; p = drgn.Program(); p.set_core_dump(sys.argv[1]); p['UTS_RELEASE']"

INSTALL = """
rm -f /etc/apt/sources.list.d/*; printf '%s\\n' "$SOURCES" >/etc/apt/sources.list
printf '%s\\n' "$APT_CONF" >/etc/apt/apt.conf.d/90bench
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >/dev/null
apt-get -q install -y --no-install-recommends crash "$PACKAGE" >/dev/null
printf 'bt\\nquit\\n' | crash -s --no_crashrc "/usr/lib/debug/boot/vmlinux-$RELEASE" "$DUMP" >/tmp/answer 2>&1 || true
grep -q '^PID:' /tmp/answer || { cat /tmp/answer >&2; exit 1; }
du -sk /usr/lib/debug | cut -f1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vmcore", type=Path, help="of a Debian kernel; made when not given")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-install", action="store_true", help="leave out the installation, a large download")
    given = parser.parse_args()
    # As pip does when it installs.
    compileall.compile_dir(str(Path(sandbox.__file__).parent), quiet=1)
    vmcore = given.vmcore or paths.cache_dir() / "bench" / "vmcore"
    if not vmcore.exists():
        vmbox("demo", vmcore.parent)
    found = api.identify(vmcore)
    vmbox("run", vmcore, "--", "bt")
    case = store.find(vmcore)
    assert case is not None
    print(f"{platform.platform()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {case.engine}")
    print(f"kernel {found.release}, {vmcore.stat().st_size / 1e6:.1f} MB {found.format}, crash of {case.profile}\n")
    print("| | vmbox | beside it | | ratio | least to most |\n|---|---|---|---|---|---|")
    engine = connect(case.endpoint)
    try:
        with tempfile.TemporaryDirectory() as directory, shipped(engine, case, Path(directory)) as container:

            def one_shot() -> None:
                crash(engine, container, "bt", vmlinux="/shipped/vmlinux")

            def release_by_crash() -> None:
                with engine.exec(container, ["crash", "--osrelease", DUMP]) as process:
                    while process.read():
                        pass

            def cold() -> None:
                vmbox("run", vmcore, "--", "bt")

            row("which kernel, and why", lambda: vmbox("info", vmcore), "crash --osrelease", release_by_crash, given)
            if importlib.util.find_spec("drgn"):
                python = [sys.executable, "-c", DRGN, str(vmcore)]
                beside = lambda: subprocess.run(python, check=True)  # noqa: E731 - measured as it is
                row("which kernel, and why", lambda: vmbox("info", vmcore), "drgn, release only", beside, given)
            row("bt, warm", cold, "crash, vmlinux as shipped", one_shot, given)
            closed = lambda: vmbox("close", vmcore)  # noqa: E731 - as above
            row("bt, case not open", cold, "crash, vmlinux as shipped", one_shot, given, before=closed)

            def by_drgn() -> None:
                vmbox("run", vmcore, "--with", "drgn", "--", "bt")

            def drgn_by_hand() -> None:
                argv = ["drgn", "-q", "--no-default-symbols", "-c", DUMP, "-s", "/shipped/vmlinux", "-e", DRGN_BT]
                with engine.exec(container, argv) as process:
                    while process.read():
                        pass

            row("bt of drgn, warm", by_drgn, "drgn, vmlinux as shipped", drgn_by_hand, given)
            row("bt of drgn, case not open", by_drgn, "drgn, vmlinux as shipped", drgn_by_hand, given, before=closed)
        if not given.no_install:
            first(engine, vmcore)
    finally:
        if store.find(vmcore) is not None:
            vmbox("close", vmcore)
        engine.close()


def row(
    what: str,
    ours: Callable[[], object],
    name: str,
    theirs: Callable[[], object],
    given: argparse.Namespace,
    *,
    before: Callable[[], object] = lambda: None,
) -> None:
    own, other = [], []
    for number in range(given.rounds + 1):
        before()
        times = seconds(ours), seconds(theirs)
        # The first round fills the page cache.
        if number:
            own.append(times[0])
            other.append(times[1])
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    show(what, statistics.median(own), name, statistics.median(other), ratios)


def show(what: str, own: float, name: str, other: float, ratios: list[float], *, unit: str = "s") -> None:
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}" if len(ratios) > 1 else "once"
    ratio = statistics.median(ratios)
    print(f"| {what} | {own:.3f} {unit} | {name} | {other:.3f} {unit} | {ratio:.3f} | {spread} |", flush=True)


def first(engine: Engine, vmcore: Path) -> None:
    """Measures the first bt of a new kernel, once: each way downloads hundreds of megabytes."""
    found = api.identify(vmcore)
    home = profiles.select(found).distribution
    assert home.debuginfo is not None
    assert found.release is not None
    spec = ContainerSpec(
        image=image.ensure_base(home, engine),
        argv=["sh", "-ec", INSTALL],
        env={
            "SOURCES": source_lines((*home.image.sources, *home.debuginfo.sources)),
            "APT_CONF": source_lines(apt_settings()),
            "PACKAGE": f"linux-image-{found.release}-dbg",
            "RELEASE": found.release,
            "DUMP": DUMP,
        },
        binds=[Bind(source=vmcore, target=DUMP)],
        network="host",
        hardened=False,
        as_caller=False,
    )
    disk: list[float] = []
    other = seconds(lambda: disk.append(float(b"".join(engine.run(spec)).split()[-1]) / 1e3))
    with tempfile.TemporaryDirectory(dir=paths.cache_dir()) as empty:
        vmbox("close", vmcore)
        usual, os.environ["VMBOX_CACHE_DIR"] = os.environ.get("VMBOX_CACHE_DIR"), empty
        try:
            own = seconds(lambda: vmbox("run", vmcore, "--", "bt"))
            kept = sum(file.stat().st_blocks * 512 for file in Path(empty).rglob("*") if file.is_file()) / 1e6
            vmbox("close", vmcore)
        finally:
            del os.environ["VMBOX_CACHE_DIR"]
            if usual is not None:
                os.environ["VMBOX_CACHE_DIR"] = usual
    show("first bt of a kernel", own, "apt-get install crash and -dbg, crash", other, [own / other])
    show("debuginfo on the disk", kept, "the same", disk[0], [kept / disk[0]], unit="MB")


if __name__ == "__main__":
    main()

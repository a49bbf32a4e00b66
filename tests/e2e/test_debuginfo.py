"""Debuginfo with the real Debian archive, real debug packages and a running crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

import engines
import fidelity
import rpms
from e2e.conftest import Dumps
from engines import EngineUnderTest
from sandbox import image, profiles
from sandbox.case.gdb_index import gdb_index_builder
from sandbox.debuginfo import gdb_index
from sandbox.formats import elf
from sandbox.progress import QUIET

FIDELITY = [("6.1", "latest")]
if os.environ.get("VMBOX_TEST_FIDELITY") == "all":
    # Each downloads some 150 MB more and takes minutes: for whoever changes how vmlinux is prepared.
    FIDELITY += [("5.10", "debian-11"), ("6.12", "debian-13"), ("6.12", "debian-14")]


@pytest.fixture(scope="module")
def own_copy(podman_rootful: EngineUnderTest, dumps: Dumps) -> Path:
    return dumps.copy_for(podman_rootful, dumps())


@pytest.fixture(scope="module")
def alone(podman_rootful: EngineUnderTest, own_copy: Path) -> EngineUnderTest:
    """With a cache of its own: tests of other processes put modules into the one that all share."""
    said = podman_rootful.run("debuginfo", "fetch", str(own_copy), "--json")
    assert said.returncode == 0, said.stderr.decode()
    entry = Path(json.loads(said.stdout)["debuginfo"]["vmlinux"]).parent
    cache = podman_rootful.directory()
    shutil.copytree(entry, cache / "debuginfo" / entry.name, ignore=shutil.ignore_patterns("modules"))
    return replace(podman_rootful, env={**podman_rootful.env, "VMBOX_CACHE_DIR": str(cache)})


def test_modules_appear_in_the_running_case(alone: EngineUnderTest, own_copy: Path) -> None:
    def run(*arguments: object) -> str:
        done = alone.run("run", str(own_copy), "--", *map(str, arguments))
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    before = run("mod")
    names = re.findall(r"(?m)^[0-9a-f]{16}\s+(\S+).*\(not loaded\)", before)
    assert names
    open_cases = json.loads(alone.run("list", "--json").stdout)
    (case,) = (case for case in open_cases if case["dump"] == str(own_copy))
    loaded = run("mod", "-s", names[0])
    assert re.search(rf"{names[0]}.*/case/debuginfo/modules/{names[0].replace('_', '[_-]')}\.ko", loaded)
    assert "(not loaded)" not in run("mod", "-S")
    # Of what was fetched, crash now knows types and lines.
    assert "/case/debuginfo/modules/" in run("mod")
    assert len(list((Path(case["vmlinux"]).parent / "modules").glob("*.ko*"))) == len(names)


def test_modules_are_fetched_for_the_prompt(alone: EngineUnderTest, own_copy: Path) -> None:
    opened = alone.run("run", str(own_copy), "--", "mod")
    names = re.findall(r"(?m)^[0-9a-f]{16}\s+(\S+)", opened.stdout.decode())
    (case,) = (it for it in json.loads(alone.run("list", "--json").stdout) if it["dump"] == str(own_copy))
    modules = Path(case["vmlinux"]).parent / "modules"
    if modules.exists():
        shutil.rmtree(modules)
    command, *arguments = [*alone.vmbox, "shell", str(own_copy)]
    terminal = pexpect.spawn(command, arguments, env=dict(alone.env), timeout=120, dimensions=(33, 120))
    try:
        terminal.expect("crash> ")
        # Typed, changed and entered as a person does.
        terminal.send(f"mod -s {names[0]}x\x7f")
        # Keys that come together with Enter are not on the screen yet, and so not known.
        time.sleep(1)
        terminal.send("\r")
        terminal.expect(rf"{names[0]}\s.*/case/debuginfo/modules/")
        assert [module.name.partition(".")[0].replace("-", "_") for module in modules.glob("*.ko*")] == [names[0]]
        terminal.expect("crash> ")
        terminal.sendline("mod -S")
        terminal.expect(rf"{names[-1]}\s.*/case/debuginfo/modules/")
        terminal.expect("crash> ")
        assert len(list(modules.glob("*.ko*"))) == len(names)
        # The terminal is crash's again.
        terminal.sendline("p 40+2")
        terminal.expect(r"p 40\+2\r\n.*\$1 = 42\r\n")
        terminal.sendline("quit")
        terminal.expect(pexpect.EOF)
    finally:
        terminal.close(force=True)


@pytest.mark.parametrize(("kernel", "profile"), FIDELITY)
def test_crash_prints_the_same_with_prepared_debuginfo(
    podman_rootful: EngineUnderTest, dumps: Dumps, kernel: str, profile: str, tmp_path: Path
) -> None:
    dump = dumps(kernel)
    said = podman_rootful.run("debuginfo", "fetch", str(dump), "--json")
    assert said.returncode == 0, said.stderr.decode()
    found = Path(json.loads(said.stdout)["debuginfo"]["vmlinux"])
    about = json.loads((found.parent / "about.json").read_text())
    # Prepared again: what the tests keep between runs may have been prepared by an earlier vmbox.
    prepared = podman_rootful.directory() / "vmlinux"
    rpms.run(["objcopy", "--remove-section=.gdb_index", str(found), str(prepared)])
    assert gdb_index.add_gdb_index(prepared.parent, gdb_index_builder(podman_rootful.engine), QUIET)
    release = json.loads(podman_rootful.run("info", str(dump), "--json").stdout)["release"]
    kept = engines.cache_root() / "shipped"
    kept.mkdir(exist_ok=True)
    shipped = fidelity.shipped_vmlinux(about["url"], release, kept / f"vmlinux-{release}")
    reference = image.ensure(profiles.by_name(profile), podman_rootful.engine)
    commands = fidelity.COMMANDS.splitlines()
    before, after = (
        fidelity.speak(podman_rootful.engine, reference, vmlinux, dump, commands=commands, scratch=tmp_path)
        for vmlinux in (shipped, prepared)
    )
    assert len(before.answers) == len(commands) >= 60
    answered = [command for command, answer in before.answers.items() if answer and b"command not found" not in answer]
    assert len(answered) >= 60
    assert b"sysrq_handle_crash" in before.answers["bt"]
    differing = fidelity.differences(before, after)
    major, *_ = profiles.by_name(profile).crash.version.split(".")
    assert differing.keys() <= fidelity.OF_CRASH.get(major, frozenset()), differing
    # Relocations make half of what x86 kernels are shipped with; without them only the index is added.
    assert prepared.stat().st_size < (0.6 if elf.read(shipped).section(".rela.debug_info") else 1.15) * (
        shipped.stat().st_size
    )

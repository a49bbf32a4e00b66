"""Dumps of another machine than the host: opened with that machine's own crash under user-mode emulation."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import engines
import machines
from engines import EngineUnderTest
from sandbox.host.locks import locked
from sandbox.judge.backtrace import parse
from sandbox.judge.which_trace import panic_trace

BINFMT = Path("/proc/sys/fs/binfmt_misc")
RULES = Path("/usr/lib/binfmt.d")
"""What Debian's qemu-user-static registers where systemd runs."""
HERE = os.uname().machine
FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "dumps" / "aarch64-6.1-zlib"
FRAME = re.compile(r"^ *#\d+ \[[0-9a-f]+\] (\S+) at", re.MULTILINE)
PANICKED = {
    "aarch64": "panic sysrq_handle_crash __handle_sysrq write_sysrq_trigger vfs_write el0t_64_sync",
    "ppc64le": "__crash_kexec panic sysrq_handle_crash __handle_sysrq write_sysrq_trigger vfs_write"
    " system_call_exception system_call_vectored_common",
    "s390x": "on_panic_notify atomic_notifier_call_chain panic __handle_sysrq write_sysrq_trigger vfs_write"
    " __do_syscall system_call",
}
"""What the panicking task's stack has, innermost first: the kernel's own call trace in its log says the same.

There may be more: on aarch64 two frames are the processor's own when QEMU stopped it, for it goes on counting the time;
on s390x the address behind a call that never returns is the next function's, and crash names that.
"""
WAITS = {
    "aarch64": "__switch_to __schedule schedule kthreadd",
    "ppc64le": "__schedule schedule kthreadd ret_from_kernel_thread",
    "s390x": "__schedule schedule kthreadd __ret_from_fork ret_from_fork",
}
"""The whole stack of kthreadd, which waits."""
FRAMES_OF_DRGN = {
    "aarch64": {"panic", "sysrq_handle_crash", "__handle_sysrq", "write_sysrq_trigger", "vfs_write"},
    "ppc64le": {"panic"},
}
"""drgn 0.3 does not find its way beyond panic on ppc64le, and takes QEMU's ELF of s390x, without VMCOREINFO, for a
program's. Of aarch64 it is given ELF: libkdumpfile 0.5.5 goes astray in that kernel's page tables, drgn does not.
"""


@pytest.fixture
def dump(docker_engine: EngineUnderTest, machine: str) -> Path:
    directory = engines.cache_root() / "dumps" / f"6.1-{machine}"
    if not (directory / "vmcore").exists():
        directory.mkdir(parents=True, exist_ok=True)
        machines.make_vmcore(docker_engine.engine, machines.MACHINES[machine], directory)
    return directory / "vmcore"


@pytest.fixture
def emulation(machine: str) -> Iterator[None]:
    """Emulation of the machine is set up; afterwards all is as it was before."""
    # All tests of a host have one kernel, and would take this from each other.
    with locked(BINFMT.parent):
        mounted = (BINFMT / "register").exists()
        if not mounted:
            subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
        entry = BINFMT / f"qemu-{machine}"
        registered = entry.exists()
        if not registered:
            rule = (RULES / f"qemu-{machine}.conf").read_text().strip()
            (BINFMT / "register").write_bytes(rule[rule.index(":") :].encode())
        yield
        if not registered:
            entry.write_text("-1")
        if not mounted:
            subprocess.run(["umount", str(BINFMT)], check=True)


@pytest.mark.skipif(HERE == "aarch64", reason="nothing has to be emulated here")
def test_what_is_missing_is_named(docker_engine: EngineUnderTest) -> None:
    if (BINFMT / "qemu-aarch64").exists():
        pytest.xfail("emulation is set up on this host: nothing is missing")
    refused = docker_engine.run("run", str(FIXTURE), "--with", "crash", "--", "bt")
    assert refused.returncode == 23
    said = refused.stderr.decode()
    assert "the dump is of aarch64, and this host (x86_64) cannot run its crash" in said
    assert "sudo " in said


@pytest.mark.on_demand("EMULATION")
@pytest.mark.parametrize("machine", sorted(FRAMES_OF_DRGN.keys() - {HERE}))
def test_drgn_needs_no_emulation(docker_engine: EngineUnderTest, dump: Path, machine: str) -> None:
    elf = dump.with_name("elf")
    code = (
        "print(*[frame.name for frame in prog.crashed_thread().stack_trace()])\n"
        "print(prog['init_uts_ns'].name.machine.string_().decode())"
    )
    done = docker_engine.run("run", str(elf if elf.exists() else dump), "--tool", "drgn", "-e", code)
    assert done.returncode == 0, done.stderr.decode()
    frames, of = done.stdout.decode().splitlines()
    assert FRAMES_OF_DRGN[machine] <= set(frames.split())
    assert of == machine
    # The case is open for more, and has drgn only: nobody asked for crash.
    (case,) = json.loads(docker_engine.run("list", "--json").stdout)
    docker_engine.run("close", case["dump"])
    assert case["profile"] == "latest"


@pytest.mark.on_demand("EMULATION")
@pytest.mark.parametrize("profile", ["debian-13", "debian-14"])
def test_aarch64_without_debuginfo(docker_engine: EngineUnderTest, profile: str) -> None:
    """Kernels of 6.12 and 7.2, whose kallsyms has variables; that of Debian's 6.1 has none."""
    directory = engines.cache_root() / "dumps" / f"{profile}-aarch64"
    if not (directory / "elf").exists():
        directory.mkdir(parents=True, exist_ok=True)
        machine = replace(machines.MACHINES["aarch64"], profile=profile)
        machines.make_vmcore(docker_engine.engine, machine, directory)
    dump = str(directory / "elf")
    done = docker_engine.run("run", dump, "--no-debuginfo", "--json", "--", "bt", "--", "foreach bt", "--", "ps")
    docker_engine.run("close", dump)
    assert done.returncode == 0, done.stderr.decode()
    assert "AGREES WITH: the log's call trace" in done.stderr.decode()
    bt, every, tasks = (json.loads(line)["output"] for line in done.stdout.splitlines())
    (stack,), stacks = parse(bt), parse(every)
    trace = panic_trace(docker_engine.run("dmesg", dump).stdout.decode().splitlines())
    assert trace is not None
    logged = [one.function for one in trace.reliable]
    functions = [one.function for one in stack.frames]
    # The last call of panic() does not return: the log of 6.12 names the function that is behind it.
    assert functions[functions.index("sysrq_handle_crash") :] == logged[logged.index("sysrq_handle_crash") :]
    assert functions[functions.index("sysrq_handle_crash") - 1] == "panic"
    assert len(stacks) == len(tasks.splitlines()) - 1
    assert [one.complaint for one in stacks if one.complaint] == []
    assert {one.frames[-1].function for one in stacks} == {"ret_from_fork", "el0t_64_sync", "__primary_switched"}


# trigger: function of the mark "CAUSE", its own or that of its caller; what the sentences must have.
EXPLAINED: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "null-pointer": (
        "vmbox_gateway",
        (
            r"A NULL pointer was followed: the kernel tried to read address 0x38\.",
            r"In vmbox_gateway\+0x\w+ of module vmbox_demo .*, \S*vmbox_demo\.c:LINE\.",
            r"It was called by vmbox_forward \(\S*vmbox_demo\.c:\d+\) < vmbox_demo_init \(",
            r"The instruction was `ldr (x\d+), \[(x\d+), #56\]`, with \2 = 0x0\.",
            r"That makes 0x38, the address of the fault\.",
            r"has the value of `route`, struct vmbox_route \*: 0x0 \+ 0x38 is struct vmbox_route\.gateway\.",
        ),
    ),
    "null-call": (
        None,
        (
            r"A NULL pointer was followed: the kernel tried to run code at address 0x0\.",
            r"It was called by vmbox_poll \(\S*vmbox_demo\.c:LINE\) < vmbox_demo_init \(",
        ),
    ),
}


@pytest.mark.on_demand("EMULATION")
@pytest.mark.parametrize("trigger", sorted(EXPLAINED))
def test_a_fault_of_aarch64_is_explained(docker_engine: EngineUnderTest, trigger: str) -> None:
    """Compared with the source of the module, which a cross compiler made for Debian's kernel."""
    directory = engines.cache_root() / "dumps" / f"aarch64-{trigger}"
    if not (directory / "elf").exists():
        directory.mkdir(parents=True, exist_ok=True)
        machine = replace(machines.MACHINES["aarch64"], profile="debian-13")
        machines.make_vmcore(docker_engine.engine, machine, directory, trigger)
    dump = str(directory / "elf")
    try:
        told = docker_engine.run("explain", dump, "--json", "--source", str(directory))
        assert told.returncode == 0, told.stderr.decode()
        fault = json.loads(told.stdout)
        # Each command that is named answers; crash is emulated, and not asked.
        commands = dict.fromkeys(one["command"] for one in fault["sentences"] if one["command"])
        words = [word for one in (*commands, "bt") for word in ("--", *one.split())]
        asked = docker_engine.run("run", dump, "--with", "drgn", *words)
        docker_engine.run("close", dump)
        bare = docker_engine.run("run", dump, "--no-debuginfo", "--", "bt")
    finally:
        docker_engine.run("close", dump)
    function, patterns = EXPLAINED[trigger]
    assert fault["function"] == function
    source = (directory / "vmbox_demo.c").read_text(encoding="utf-8").splitlines()
    (line,) = (number for number, text in enumerate(source, 1) if f"/* CAUSE: {trigger} */" in text)
    said = "\n".join(one["text"] for one in fault["sentences"])
    for pattern in patterns:
        assert re.search(pattern.replace("LINE", str(line)), said), (pattern, said)
    if function is not None:
        (marked,) = (one for one in fault["source"] if one["fault"])
        assert (marked["number"], f"CAUSE: {trigger}" in marked["text"]) == (line, True)
    assert asked.returncode == 0, asked.stderr.decode()
    # With and without debuginfo the stack has the caller of NULL, which only the link register knows.
    for answer in (asked, bare):
        stack = parse(answer.stdout.decode())[-1]
        functions = [one.function for one in stack.frames]
        assert ("vmbox_forward" if function else "vmbox_poll") in functions, functions
        assert "AGREES WITH: the log's call trace" in answer.stderr.decode()
        assert functions[-1] == "el0t_64_sync"


@pytest.mark.on_demand("EMULATION")
@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("machine", sorted(PANICKED.keys() - {HERE}))
def test_backtrace(docker_engine: EngineUnderTest, dump: Path, machine: str) -> None:
    facts = json.loads(docker_engine.run("info", str(dump), "--json").stdout)
    assert (facts["arch"], facts["complete"], facts["cause"]) == (machine, True, "sysrq")
    try:
        done = docker_engine.run(
            "run", str(dump), "--", "bt", "--", "bt 2", "--", "sys", "--", "!uname -m", timeout=1500
        )
        assert done.returncode == 0, done.stderr.decode()
        (case,) = (one for one in json.loads(docker_engine.run("list", "--json").stdout) if one["dump"] == str(dump))
    finally:
        docker_engine.run("close", str(dump))
    panicked, other = (FRAME.findall(stack.decode()) for stack in done.stdout.split(b"PID: ")[1:])
    expected = PANICKED[machine].split()
    assert [name for name in panicked if name in expected] == expected
    assert " ".join(other) == WAITS[machine]
    said = done.stdout.decode()
    assert f"MACHINE: {machine}" in said
    assert f"\n{machine}\n" in said
    assert case["profile"] == f"latest-{machine}"

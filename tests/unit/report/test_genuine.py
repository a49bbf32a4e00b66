"""Output of crash for three genuine SysRq dumps, stored as `vmbox run --json` printed it, becomes a complete report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.case.options import OpenOptions
from sandbox.debugger import COUNT_TASKS
from sandbox.judge import system
from sandbox.model import Vmcore
from sandbox.report import signature
from sandbox.report.build import make, read
from sandbox.report.collect import COMMANDS, CommandOutputs
from sandbox.report.model import CommandRun

ANSWERS = Path(__file__).parents[2] / "fixtures" / "crash"


def _texts(kernel: str, place: Path = ANSWERS) -> dict[str, str]:
    lines = (place / f"{kernel}.jsonl").read_text(encoding="utf-8").splitlines()
    return {answer["command"]: answer["output"] for answer in map(json.loads, lines)}


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_genuine_output_makes_a_complete_report(kernel: str) -> None:
    texts = _texts(kernel)
    release = system.parse(texts["sys"])["RELEASE"]
    assert release.startswith(f"{kernel}.")
    vmcore = Vmcore(path=Path("vmcore"), format="kdump-compressed", size=1, release=release, cause="sysrq")
    report = read(vmcore, CommandOutputs(texts=texts, runs=(), mode="", case={}))
    assert report.backtrace is not None
    assert "sysrq_handle_crash" in [frame.function for frame in report.backtrace.frames]
    # The same cause on each kernel.
    assert report.signature is not None
    assert report.signature.frames[0] == "sysrq_handle_crash"
    assert report.signature.id == "237bf7d6164e"
    # Its log alone has the same signature.
    alone = signature.of(cause="sysrq", log=texts["log"].splitlines())
    assert (alone.id, alone.basis) == (report.signature.id, "log")
    # crash 8.0.2, which Debian 12 has, goes on with what lies on the stack of a 6.1 kernel: ten frames of no call.
    false = kernel == "6.1"
    stack, uptime = report.verdicts
    assert (stack.subject, stack.agrees, stack.against) == ("stack", not false, "the log's call trace")
    # And crash 7.2.9 and 8.0.6 take HZ for 1000 where it is 250: 226 s after a boot of 7.
    assert (uptime.subject, uptime.agrees) == ("uptime", kernel == "6.1")
    assert report.signature.basis == ("log" if false else "backtrace")
    if false:
        assert stack.words == "crash has exit_to_user_mode_prepare below do_syscall_64, there the stack ends"
        assert len(stack.stack) == len(stack.witness) + 10
    assert report.tasks_total > 1
    assert len(report.load) == 3
    assert report.memory
    assert report.modules
    assert report.mounts


def test_genuine_answers_of_drgn_make_the_same_report() -> None:
    """Of a raw dump of 7.2, which no crash reads: what drgn 0.3.0 and our scripts answered to all questions."""
    texts = _texts("7.2", ANSWERS.parent / "drgn")
    assert set(texts) == set(COMMANDS) - {COUNT_TASKS}
    case = {"debugger": "drgn", "reason": "crash is too old"}
    vmcore = Vmcore(path=Path("vmcore"), format="elf", size=1, release="7.2.12+deb14-cloud-amd64", cause="sysrq")
    report = read(vmcore, CommandOutputs(texts=texts, runs=(), mode="", case=case))
    assert report.backtrace is not None
    assert "sysrq_handle_crash" in [frame.function for frame in report.backtrace.frames]
    assert report.signature.id == "237bf7d6164e"
    stack, *_ = report.verdicts
    assert (stack.agrees, stack.by) == (True, "drgn")
    assert len(report.cpus) == 2
    assert report.states == {"ID": 40, "IN": 23, "RU": 5}
    assert report.tasks_total == 68
    assert {task.command for task in report.active_tasks} == {"init", "sh"}
    assert report.by_time[0].ran
    assert report.memory is not None
    assert report.memory.total == 674336768
    assert report.slab[0].name == "kernfs_node_cache"
    assert [module.name for module in report.modules] == ["qemu_fw_cfg", "virtio_blk"]
    assert report.mounts[0].type == "nullfs"
    assert (report.network[0].name, report.disks[0].name) == ("lo", "vda")
    assert report.interrupts[0].name == "IO-APIC timer"
    assert {one.cpu: one.command for one in report.run_queues if one.current} == {0: "init", 1: "sh"}
    assert report.panic.taint == ()
    assert "QEMU Standard PC" in str(report.identity.hardware)
    assert (report.identity.debugger, report.identity.debugger_reason) == ("drgn", "crash is too old")


@pytest.mark.parametrize("lost", ["bt -l", "bt -a", "foreach UN bt"])
def test_a_report_without_stacks_has_a_problem(lost: str) -> None:
    texts = _texts("6.12")
    del texts[lost]
    runs = tuple(
        CommandRun(
            command=command,
            status="error" if command == lost else "ok",
            seconds=0.1,
            output="drgn: crash: no\n",
            debugger="drgn",
        )
        for command in COMMANDS
    )
    vmcore = Vmcore(path=Path("vmcore"), format="kdump-compressed", size=1, release="6.12.1", cause="sysrq")
    report = read(vmcore, CommandOutputs(texts=texts, runs=runs, mode="", case={}))
    assert report.exit_code == 60
    assert str(report.problem).startswith("stacks are missing: ")
    assert str(report.problem).endswith(": drgn says: no")


def test_a_log_without_its_dump_is_reported_without_an_engine(tmp_path: Path) -> None:
    path = tmp_path / "oops.txt"
    path.write_text("".join(f"> {line}\n" for line in _texts("6.12")["log"].splitlines()[-60:]))
    report = make(path, OpenOptions(engine="unix:///nonexistent/engine.sock"))
    assert (report.exit_code, report.identity.format, report.signature.id) == (0, "log", "237bf7d6164e")
    assert report.identity.release is not None
    assert report.problem is not None
    assert "without its dump" in report.problem
    assert report.missing["memory"] == report.problem
    assert "log" not in report.missing

"""Output of crash for three genuine SysRq dumps, stored as `vmbox run --json` printed it, becomes a complete report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sandbox.model import Vmcore
from sandbox.report import signature, tables
from sandbox.report.build import read
from sandbox.report.collect import CommandOutputs

ANSWERS = Path(__file__).parents[2] / "fixtures" / "crash"


def _texts(kernel: str) -> dict[str, str]:
    lines = (ANSWERS / f"{kernel}.jsonl").read_text(encoding="utf-8").splitlines()
    return {answer["command"]: answer["output"] for answer in map(json.loads, lines)}


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_genuine_output_makes_a_complete_report(kernel: str) -> None:
    texts = _texts(kernel)
    release = tables.system(texts["sys"])["RELEASE"]
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

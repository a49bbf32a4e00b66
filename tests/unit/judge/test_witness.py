"""A log that kdump saved is believed only where it is of the dump's boot. DATE and UPTIME are compared, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandbox.dump import same_boot
from sandbox.dump.printk import Record, from_line
from sandbox.judge import call_trace, log, system
from sandbox.judge.verdict import Verdict
from sandbox.model import Vmcore

# Of a 6.1 dump that vmbox demo made; VMCOREINFO there has CRASHTIME=1795787943.
LINES = [
    "[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian-kernel@lists.debian.org) (gcc) #1 SMP Debian 6.1.192-2",
    "[    1.931311] rtc_cmos 00:05: setting system clock to 2026-11-27T13:59:01 UTC (1795787941)",
    "[    4.074790] Kernel panic - not syncing: sysrq triggered crash",
    "                indented line",
]
DUMP = Vmcore(
    path=Path("vmcore"),
    format="kdump-compressed",
    size=1,
    release="6.1.0-56-cloud-amd64",
    utsname_version="#1 SMP Debian 6.1.192-2",
    crash_time=datetime.fromtimestamp(1795787943, UTC),
)


def test_the_log_of_the_same_boot_is_believed() -> None:
    assert same_boot.last_time(LINES) == 4.07479
    assert same_boot.ended(LINES) == datetime.fromtimestamp(1795787943.143479, UTC)
    assert log.another_boot(DUMP, LINES) is None
    # A clock in local time.
    assert log.another_boot(replace(DUMP, crash_time=_later(hours=5, minutes=30)), LINES) is None
    # Nothing to compare with.
    assert log.another_boot(DUMP, LINES[2:]) is None
    assert log.another_boot(replace(DUMP, crash_time=None), LINES) is None


def _later(**shift: float) -> datetime:
    assert DUMP.crash_time is not None
    return DUMP.crash_time + timedelta(**shift)


@pytest.mark.parametrize("shift", [{"minutes": 7}, {"minutes": -6}, {"days": 3}])
def test_the_log_of_another_boot_is_not_believed(shift: dict[str, float]) -> None:
    why = log.another_boot(replace(DUMP, crash_time=_later(**shift)), LINES)
    assert why is not None
    assert why.startswith("is of another boot: it ends at 2026-11-27 13:59:03, the dump's crash was at 20")


def test_the_log_of_another_kernel_is_not_believed() -> None:
    for other in (replace(DUMP, release="6.1.0-55-cloud-amd64"), replace(DUMP, utsname_version="#1 SMP Debian 6.1.1")):
        assert "is of another kernel" in (log.another_boot(other, LINES) or "")


def test_a_log_beside_the_dump_is_a_witness_only_if_it_is_of_that_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_records(path: Path, *, unpack_into: object, on_saved) -> Iterator[Record]:  # type: ignore[no-untyped-def]
        on_saved(path.with_name("vmcore-dmesg.txt"))
        yield from (from_line(line.encode()) for line in LINES)

    monkeypatch.setattr(log, "read_records", read_records)
    ours = log.witness(tmp_path / "vmcore", DUMP)
    assert (ours.lines, ours.refused) == (LINES, None)
    other = log.witness(tmp_path / "vmcore", replace(DUMP, crash_time=_later(hours=1, minutes=6)))
    assert other.lines == ()
    assert (other.refused or "").startswith("vmcore-dmesg.txt is of another boot")


def _judged(
    said: dict[str, str], crash_time: datetime | None, last: float, counted: str | None = None
) -> list[Verdict]:
    ends = [f"[{last:12.6f}] Kernel panic - not syncing: x"]
    return list(system.judge(said, crash_time=crash_time, log=ends, counted=counted, by="crash"))


def test_date_and_uptime_of_the_debugger_are_compared_with_the_dump() -> None:
    good = {"DATE": "Fri Nov 27 13:59:03 UTC 2026", "UPTIME": "00:00:04"}
    found = _judged(good, DUMP.crash_time, 4.1)
    assert [(one.subject, one.agrees) for one in found] == [("date", True), ("uptime", True)]
    # crash 9.0.2 on 7.2.
    bad = {"DATE": "Thu Jan  1 00:00:00 UTC 1970", "UPTIME": "00:03:48"}
    found = _judged(bad, DUMP.crash_time, 15.0)
    assert [one.agrees for one in found] == [False, False]
    assert found[0].words == "crash says 1970-01-01 00:00:00, the dump 2026-11-27 13:59:03 UTC"
    assert found[1].words == "crash says 228 s, the log 15 s"
    days = _judged({"UPTIME": "3 days, 01:02:03"}, None, 263000.0)
    assert [one.agrees for one in days] == [True]
    # Lines that are not there, or not what they should be, are not judged.
    for broken in ({}, {"DATE": "(unknown)", "UPTIME": "?"}, {"DATE": "Fri Foo 27 13:59:03 UTC 2026"}):
        assert _judged(broken, DUMP.crash_time, 4.0) == []


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 20, "9" * 11], ids=len)
def test_numbers_that_no_kernel_prints(number: str) -> None:
    """A log and the answers of a debugger are the dump's choice."""
    lines = [
        f"[    1.000000] rtc_cmos: setting system clock to x UTC ({number})",
        f"[    2.000000] INFO: task x:{number} blocked for more than 120 seconds.",
        f"[    2.000000] CPU: {number} PID: {number} Comm: x Not tainted 6.1.0 #1",
        f"[{number}.500000] Kernel panic - not syncing: x",
        "[    3.000000] Call Trace:",
        "[    3.000000]  panic+0x1/0x2",
    ]
    same_boot.ended(lines)
    call_trace.call_traces(lines)
    call_trace.blocked_pids(lines)
    said = {"DATE": f"Fri Nov {number} 14:00:00 UTC {number[:4]}", "UPTIME": f"{number} days, {number}:00:00"}
    assert _judged(said, datetime.now(UTC), 5.0) == []


def test_the_number_of_tasks_is_compared_with_the_kernels_own() -> None:
    # Of a 6.1 dump: crash's answer, and drgn's.
    for counted in ("ffffffff8beee7d8:            55 \n", "ffffffff8beee7d8:           55\n"):
        (found,) = _judged({"TASKS": "57", "CPUS": "2"}, None, 3.0, counted)
        assert (found.subject, found.agrees) == ("tasks", True)
        assert found.words == "crash finds 57 tasks, the kernel counted 55; of 2 CPUs each has an idle one"
        # A CPU may have died in the middle of a fork.
        assert _judged({"TASKS": "59", "CPUS": "2"}, None, 3.0, counted)[0].agrees
        assert not _judged({"TASKS": "60", "CPUS": "2 [OFFLINE: 1]"}, None, 3.0, counted)[0].agrees
        assert not _judged({"TASKS": "7", "CPUS": "2"}, None, 3.0, counted)[0].agrees
    for said in ({"TASKS": "57"}, {"CPUS": "2"}, {"TASKS": "x", "CPUS": "2"}, {"TASKS": "57", "CPUS": "?"}):
        assert _judged(said, None, 3.0, "ffffffff8beee7d8:  55\n") == []
    for counted in ("", "rd: symbol not found: nr_threads", "ffffffff8beee7d8:   -1\n"):
        assert _judged({"TASKS": "57", "CPUS": "2"}, None, 3.0, counted) == []


def test_the_number_of_tasks_is_compared_with_a_walk_of_the_list_of_processes() -> None:
    # drgn's answer, with what vmbox's script has walked.
    counted = "ffffffff8beee7d8:           55\nwalk: {}\n"
    (found,) = _judged({"TASKS": "57", "CPUS": "2"}, None, 3.0, counted.format(55))
    assert found.agrees
    assert (
        found.against == "a walk of the kernel's list of processes, and the kernel's own number of tasks (nr_threads)"
    )
    assert "the list of processes has 55, the kernel counted 55;" in found.words
    # Each of the two may contradict.
    assert not _judged({"TASKS": "57", "CPUS": "2"}, None, 3.0, counted.format(12))[0].agrees
    assert not _judged({"TASKS": "57", "CPUS": "2"}, None, 3.0, counted.format(55).replace("55", "12", 1))[0].agrees


def test_a_log_that_ends_before_the_crash_has_no_time_of_it() -> None:
    early = ["[    1.000000] Linux version 6.1.0"]
    assert list(system.judge({"UPTIME": "00:05:00"}, crash_time=None, log=early, counted=None, by="crash")) == []


def test_what_a_program_wrote_is_in_the_log_and_is_no_witness() -> None:
    panic = "[    2.000000] Kernel panic - not syncing: sysrq triggered crash"
    read = log.Witness.of(
        [
            from_line(b"<6>[    1.000000] Linux version 6.1.0"),
            Record(nanoseconds=1_500_000_000, text=b"Kernel panic - not\nsyncing: no", from_program=True),
            from_line(b"<0>" + panic.encode()),
        ]
    )
    assert read.lines == [
        "[    1.000000] Linux version 6.1.0",
        "[    1.500000] Kernel panic - not",
        "               syncing: no",
        panic,
    ]
    assert read.kernel == [read.lines[0], panic]

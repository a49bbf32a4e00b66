from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from sandbox.report.log_excerpt import excerpt
from sandbox.report.timeline import Timeline, picture, timeline

FIXTURES = Path(__file__).parents[2] / "fixtures"
BOOT = "[    0.000000] Linux version 6.1.0 (builder) #1 SMP"


def _kinds(*lines: str) -> list[tuple[str, int]]:
    return [(one.kind, one.count) for one in timeline([BOOT, *lines]).events][1:-1]


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("bug", ["boot", "taint", "fault", "end"]),
        ("deadlock", ["boot", "taint", "hung-task", "panic", "end"]),
        ("general-protection", ["boot", "taint", "fault", "end"]),
        ("list-corruption", ["boot", "taint", "fault", "end"]),
        ("rcu-stall", ["boot", "taint", "lockup", "panic", "end"]),
        ("stack-overflow", ["boot", "taint", "fault", "end"]),
    ],
)
def test_genuine_logs_of_known_cause(name: str, kinds: list[str]) -> None:
    log = (FIXTURES / "oops" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    found = timeline(log)
    assert [one.kind for one in found.events] == kinds
    for one in found.events:
        assert one.kind in {"boot", "end"} or one.text in log[one.line - 1]
    if name == "deadlock":
        assert [one.count for one in found.events if one.kind == "hung-task"] == [3]


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_nothing_of_an_ordinary_boot_is_an_event(kernel: str) -> None:
    log = gzip.decompress((FIXTURES / "dumps" / f"x86_64-{kernel}.dmesg.gz").read_bytes()).decode().splitlines()
    assert [one.kind for one in timeline(log).events] == ["boot", "sysrq", "panic", "end"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("WARNING: CPU: 0 PID: 7 at kernel/x.c:1 f+0x1/0x2", "warning"),
        ("NETDEV WATCHDOG: eth0 (e1000): transmit queue 0 timed out", "warning"),
        ("INFO: task sync:12 blocked for more than 120 seconds.", "hung-task"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [cat:99]", "lockup"),
        ("watchdog: CPU1: Watchdog detected hard LOCKUP on cpu 1", "lockup"),
        ("rcu: INFO: rcu_sched detected stalls on CPUs/tasks:", "lockup"),
        ("BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!", "lockup"),
        ("blk_update_request: I/O error, dev sda, sector 12 op 0x0:(READ)", "io-error"),
        ("Buffer I/O error on dev dm-0, logical block 1, async page read", "io-error"),
        ("EXT4-fs error (device sda1): ext4_lookup:1: inode #2", "io-error"),
        ("Out of memory: Killed process 12 (java) total-vm:1kB", "oom"),
        ("Memory cgroup out of memory: Killed process 12 (java)", "oom"),
        ("mce: [Hardware Error]: Machine check events logged", "hardware"),
        ("EDAC MC0: 1 CE memory read error on CPU_SrcID#0", "hardware"),
        ("pcieport 0000:00:1c.0: AER: Corrected error received: 0000:00:1c.0", "hardware"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000010", "fault"),
        ("Internal error: Oops: 96000004 [#1] SMP", "fault"),
        ("Kernel panic - not syncing: Fatal exception", "panic"),
    ],
)
def test_a_message_is_an_event_of_its_kind(line: str, kind: str) -> None:
    assert _kinds(f"[   12.000000] {line}") == [(kind, 1)]


@pytest.mark.parametrize(
    "line",
    [
        "Kernel command line: panic=1 rcupdate.rcu_cpu_stall_timeout=3 mce=off",
        "mce: CPU supports 32 MCE banks",
        "EDAC MC: Ver: 3.0.0",
        "pcieport 0000:00:1c.0: AER: enabled with IRQ 24",
        "a.out[12]: segfault at 0 ip 0 sp 0",
        " oom_kill_process.cold+0xb/0x10",
        "---[ end Kernel panic - not syncing: sysrq triggered crash ]---",
        "rcu: \tRCU CPU stall warnings timeout set to 60 (rcu_cpu_stall_timeout).",
    ],
)
def test_an_ordinary_line_is_none(line: str) -> None:
    assert _kinds(f"[    1.000000] {line}") == []


def test_messages_of_one_fault_are_one_event_and_those_of_another_a_second() -> None:
    one = "[   {at}.000100] BUG: unable to handle page fault for address: 0000\n[   {at}.000200] Oops: 0002 [#{n}] SMP"
    lines = "\n".join(one.format(at=at, n=n) for n, at in ((1, 20), (2, 40))).splitlines()
    assert _kinds(*lines) == [("fault", 1), ("fault", 1)]


def test_letters_of_taint_count_once() -> None:
    assert _kinds(
        "[    2.0] x: loading out-of-tree module taints kernel.",
        "[    3.0] CPU: 0 PID: 1 Comm: x Tainted: G           O       6.1.0 #1",
        "[    4.0] CPU: 0 PID: 1 Comm: x Tainted: G        W  O       6.1.0 #1",
        "[    5.0] CPU: 0 PID: 1 Comm: x Tainted: G        W  O       6.1.0 #1",
    ) == [("taint", 2)]


@pytest.mark.slow
def test_thousands_of_messages_are_one_event_and_others_are_bounded() -> None:
    flood = timeline([BOOT, *(f"[ {at}.0] I/O error, dev sda, sector {at}" for at in range(100, 9000))])
    (event,) = flood.events[1:-1]
    assert (event.count, event.seconds, event.until) == (8900, 100.0, 8999.0)
    mixed = [f"[ {at}.0] {('I/O error, dev sda', 'WARNING: x')[at % 2]}" for at in range(100, 9000)]
    found = timeline([BOOT, *mixed])
    assert (len(found.events), found.left_out) == (80, 8902 - 80)


def test_an_event_before_the_end_is_in_the_excerpt_with_what_is_around_it() -> None:
    lines = [BOOT, *(f"[    1.{at:06}] ordinary" for at in range(900)), "[    9.0] Kernel panic - not syncing: x"]
    lines[100] = "[    1.000100] WARNING: here"
    found = excerpt(lines, timeline(lines))
    assert [one.number for one in found[:8]] == [1, 2, 3, 99, 100, 101, 102, 103]
    assert [one.number for one in found[8:]] == list(range(862, 903))
    assert found[5].kind == "warning"
    assert excerpt(lines)[0].number == 862


@pytest.mark.parametrize("log", [[], ["no time", "Kernel panic - not syncing: x"]])
def test_without_times_there_is_no_picture(log: list[str]) -> None:
    found = timeline(log)
    assert picture(found) is None
    assert [one.seconds for one in found.events] == [None] * len(found.events)
    assert bool(found.events) is bool(log)


def test_the_picture_has_each_kind_in_a_row_and_the_last_seconds_wide() -> None:
    log = [BOOT, "[  86400.0] WARNING: x", "[ 100000.0] INFO: task x:1 blocked for more than 120 seconds."]
    drawn = picture(timeline([*log, "[ 100009.0] Kernel panic - not syncing: x", "[ 100010.0] end"]))
    assert drawn is not None
    at = {kind: marks[0].x for kind, marks in drawn.rows}
    assert list(at) == ["boot", "warning", "hung-task", "panic"]
    assert at["boot"] == 0
    assert at["warning"] < at["hung-task"] < at["panic"] < 100
    assert at["panic"] - at["hung-task"] > 10, "nine of 100,010 seconds"
    words = [words for _, words in drawn.ticks]
    assert (words[0], words[-1]) == ("the end", "boot")
    assert {"10 s", "10 min"} & set(words)


def test_a_report_of_no_log_has_an_empty_timeline() -> None:
    assert timeline([]) == Timeline()


def test_what_a_program_wrote_is_no_event_and_is_not_marked() -> None:
    log = [
        "[    1.000000] Linux version 6.1.0 (x@y)",
        "[    2.000000] Kernel panic - not syncing: forged",
        "[    3.000000] Kernel panic - not syncing: sysrq triggered crash",
    ]
    told = timeline(log, frozenset({1}))
    assert [event.line for event in told.events if event.kind == "panic"] == [3]
    shown = excerpt(log, told, frozenset({1}))
    assert [(line.number, line.kind) for line in shown] == [(1, ""), (2, ""), (3, "panic")]

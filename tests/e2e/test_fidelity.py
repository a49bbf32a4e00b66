"""What the warm crash answers is what crash prints: the same commands, given to crash by hand in the same container."""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.conftest import crash_by_hand
from engines import EngineUnderTest
from fidelity import comparable
from sandbox.dump import read_log
from sandbox.judge import backtrace, stacks
from sandbox.judge.which_trace import dump_trace

# Left out: what shows addresses of crash itself (help -t), and what reads memory of its own that nobody has written to
# (files -d 0): they differ between two runs of crash, too. And vm -p behind a pipe, where crash may complain
# on standard error, at a place of the output that varies.
COMMANDS = """
set
bt
bt -a
bt -l
bt -f
bt -e
bt -s
bt -t
bt -T
bt -p
bt -c 0
bt 1
bt -v
ps
ps -t
ps -p
ps -m
ps -l
ps -a 1
ps -g 1
ps -k
ps -u
ps -S
ps -r 1
ps | grep -c UN
files
files 1
fuser /dev/console
log
log -m
log -t
log -T
dmesg | tail -5
sys
sys -i
sys -c
sys config
mod
mach
mach -m
mach -c
kmem -i
kmem -s
kmem -n
kmem -v
kmem -V
kmem -z
kmem -o
kmem -h
kmem -g
kmem -p | head -100
kmem -f | head -100
kmem -S kmalloc-64 | head -60
kmem init_task
vm
vm -m
task
task -R pid,comm
task -x 1 | head -50
struct task_struct -o
struct list_head
struct page
struct task_struct.pid,comm init_task
union thread_union
list_head
*task_struct.comm init_task
sym schedule
sym -l | head -60
sym -q sysrq_handle
sym -n schedule
sym jiffies_64
dis schedule 10
dis -l schedule 10
dis -x schedule 5
dis -r schedule+20
whatis schedule
whatis task_struct.pid
foreach bt
foreach comm
foreach 1 -R 1 task
foreach files
foreach vtop
dev
dev -i
dev -p
dev -d
irq
irq -s
irq -a
irq -b
irq -d
net
net -a
net -n
timer
timer -r
runq
runq -t
runq -g
runq -c 0
search -s jiffies_64 deadbeef -m ffff
search -c panic -K | head -20
mount
mount -f
swap
waitq kthreadd_done
ipcs
ipcs -M
list task_struct.tasks -s task_struct.pid,comm -H init_task
list -h init_task.tasks | head -5
tree -t rb vmap_area_root
tree -t xarray init_task | head -5
rd jiffies_64 4
rd -d jiffies_64
rd -8 jiffies_64 16
rd -a linux_banner
rd -s init_task 20
rd -p 1000 4
p jiffies
p -x jiffies
px init_task.flags
pd init_task.flags
p init_task.comm
p &init_task
p (1 > 2)
p nosuch
eval 1 << 20
eval -b 0xff
ascii
ascii 62696c2f7273752f
btop 1000
ptob 10
vtop init_task
ptov 1000
pte 1000
sig
sig -l
alias
set -v
set 1
bt
set -p
wr jiffies_64 1
extend
gdb ptype struct list_head
gdb info line schedule
gdb print sizeof(struct page)
help
help bt
sym nosuch
struct nosuch
nosuch
bt -Z
bt 99999999
*nosuch
*
<nosuch
print nosuch
ptype struct nosuch
x/4x 0
disas nosuch
info nosuch
printf "%s", nosuch
bt;ps
print jiffies
x/4x &jiffies
ptype struct list_head
help nosuch
alias nosuch
set nosuch
foreach nosuch bt
mod -s nosuch
vtop nosuch
dis nosuch
list nosuch
whatis nosuch
union nosuch
eval nosuch
tree nosuch
kmem nosuch
rd 0
log | head -3 | wc -l
bt > /scratch/bt.txt
!cat /scratch/bt.txt
!printf 'no newline at the end'
!printf 'crash> \\r\\n\\n\\n'
hex
p 255
dec
p 255
""".strip().splitlines()


REFUSED = {
    *(command for command in COMMANDS if "nosuch" in command),
    *("*", "bt -Z", "bt 99999999", "bt;ps", "x/4x 0", "rd 0", "wr jiffies_64 1", "vtop init_task", "foreach vtop"),
    "list task_struct.tasks -s task_struct.pid,comm -H init_task",
}
"""Commands that every crash refuses: their status is "error"."""
OF_THE_KERNEL = {
    *("ps -a 1", "sys config", "kmem init_task", "union thread_union", "foreach comm", "foreach 1 -R 1 task"),
    *("mount -f", "waitq kthreadd_done", "tree -t rb vmap_area_root", "tree -t xarray init_task | head -5"),
    *("list -h init_task.tasks | head -5", "rd -p 1000 4"),
}
"""Commands that some of these kernels have no answer to. All others are answered: their status is "ok"."""
# A processor may have been stopped at the first instruction of an exception: crash does not follow its stack. And
# where the kernel keeps a part of a structure (`mach -m`: e820__reallocate_tables() keeps the entries in use), crash
# reads all of it, and meets the next page, which may be a free one that makedumpfile left out.
OF_THE_DUMP = re.compile("cannot transition from exception stack|page excluded: kernel virtual address: ")
"""Errors that depend on where a dump's objects lie, and on what its processors did."""

# Each crash once and each engine once: what an engine does with the bytes of a command has nothing to do with the
# version of crash, and what crash does with them nothing with the engine.
EVERY = [
    (engine, kernel)
    for engine in ("docker_engine", "podman_rootful", "podman_rootless")
    for kernel in ("5.10", "6.1", "6.12")
]
OLD = {"5.10": ["--image", "debian-11", "--with", "crash"]}
"""crash 7.2.9 is older than this kernel, and used only where it is asked for."""
TRIED = {("podman_rootful", "5.10"), ("podman_rootless", "6.1"), ("docker_engine", "6.12")}


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("engine", "kernel"),
    [pytest.param(*one, marks=() if one in TRIED else pytest.mark.on_demand("FIDELITY")) for one in EVERY],
    indirect=["engine"],
)
def test_answers_are_what_crash_prints(engine: EngineUnderTest, dumps, kernel: str) -> None:
    assert len(COMMANDS) >= 80
    dump = dumps.copy_for(engine, dumps(kernel))
    script = engine.directory() / "commands"
    script.write_text("# crash's comments and empty lines\n\n" + "\n".join(COMMANDS) + "\nquit\n")
    done = engine.run("run", str(dump), *OLD.get(kernel, []), "--json", "-i", str(script))
    assert done.returncode == 1, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["command"] for answer in answers] == COMMANDS
    # crash 7.2.9 and 8.0.6 take HZ for 1000 where it is 250, so that their UPTIME is false.
    verdicts = [verdict for answer in answers for verdict in answer.get("verdicts", [])]
    assert {one["subject"] for one in verdicts} == {"stack", "date", "uptime", "tasks"}
    judged = [one["agrees"] for one in verdicts if one["subject"] != "uptime"]
    assert judged == [True] * len(judged)
    assert len(judged) > 5
    errors = {
        answer["command"]: answer["output"]
        for answer in answers
        if answer["status"] != "ok" and not OF_THE_DUMP.search(answer["output"])
    }
    unexpected = {command: errors[command] for command in errors.keys() - OF_THE_KERNEL - REFUSED}
    assert not unexpected
    assert errors.keys() >= REFUSED
    try:
        expected = list(_directly(engine, dump))
    finally:
        engine.run("close", str(dump))
    differing = [
        "\n".join([command, *difflib.unified_diff(there.splitlines(), answer["output"].splitlines(), "crash", "vmbox")])
        for command, answer, there in zip(COMMANDS, answers, expected, strict=True)
        if comparable(answer["output"].encode()) != comparable(there.encode())
    ]
    assert not differing, "\n\n".join(differing)


# One task a line: "> 1 0 1 ff2f5640411f0000 RU 0.2 2260 1796 init"; the idle tasks, of number 0, are no tasks to drgn.
_TASK = re.compile(r"^>?\s+([1-9]\d*)\s+\d+\s+\d+\s+[0-9a-f]+ ", re.MULTILINE)


# drgn's own words, whatever its version: the tasks, and the stack of the one that panicked as crash would print it.
_DRGN = """
import json
thread = prog.crashed_thread()
lines = [f'PID: {thread.tid}  TASK: {thread.object.value_():x}  CPU: {prog["panic_cpu"].counter.value_()}  COMMAND: ""']
for number, frame in enumerate(frame for frame in thread.stack_trace() if frame.pc >> 63):
    where = f"(inline) {frame.name}" if frame.is_inline else f"[0] {frame.name} at {frame.pc:x}"
    lines.append(f" #{number} {where}")
print(json.dumps({"pids": [int(task.pid) for task in for_each_task(prog)], "stack": "\\n".join(lines)}))
"""


PANICS = ("null-pointer", "bug", "hung-task", "oom", "soft-lockup", "stack-overflow")
"""Of a system call, of an interrupt, of a kernel thread, and of exceptions in a module, which has no debug file."""
IN_EVERY_RUN = {("5.10", "null-pointer"), ("6.1", "soft-lockup"), ("6.12", "null-pointer")}
"""Of 7.2 it is another test's: only drgn reads it."""
MISREAD = {("5.10", "soft-lockup"), ("6.12", "hung-task")}
"""What the judge contradicts.

crash 9.0.2 does not find the registers below the interrupt stack of 5.10 (asm_call_sysvec_on_stack): it has others, and
neither the function that was interrupted nor its caller. crash 8.0.6 leaves out panic() and watchdog() of 6.12: panic()
ends with its call of vpanic(), so that the address behind it is another function's.
"""


@pytest.mark.parametrize(
    ("kernel", "trigger"),
    [
        pytest.param(*one, marks=() if one in IN_EVERY_RUN else pytest.mark.on_demand)
        for one in itertools.product(("5.10", "6.1", "6.12", "7.2"), PANICS)
    ],
)
def test_crash_drgn_and_the_kernel_agree(docker_engine: EngineUnderTest, dumps, kernel: str, trigger: str) -> None:
    """On the tasks, and on the stack of the one that panicked, which the kernel printed into its log."""
    # makedumpfile 1.7.8 leaves out the table of 7.2's tasks.
    dump = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger=trigger)
    misread = (kernel, trigger) in MISREAD
    tasks, stack = (docker_engine.run("run", str(dump), "--json", "--", *words) for words in (["ps"], ["bt"]))
    shown = json.loads(stack.stdout)
    # No crash reads 7.2.
    by_name = ["crash"] if shown["debugger"] != "crash" and kernel != "7.2" else []
    (own,) = [docker_engine.run("run", str(dump), "--with", name, "--json", "--", "bt") for name in by_name] or [stack]
    asked = docker_engine.run("run", str(dump), "--tool", "drgn", "-e", _DRGN)
    docker_engine.run("close", str(dump))
    drgn = json.loads(asked.stdout)
    found = sorted(map(int, _TASK.findall(json.loads(tasks.stdout)["output"])))
    assert found == sorted(drgn["pids"]), (tasks.stderr, asked.stderr)
    assert len(found) > 40
    # What is printed without a wish is true, whatever crash would have printed.
    assert shown["debugger"] == ("drgn" if misread or kernel in {"5.10", "7.2"} else "crash"), stack.stderr
    assert shown["verdicts"][0]["agrees"], shown
    answer = json.loads(own.stdout)
    assert answer["verdicts"][0]["agrees"] is not misread, answer
    assert misread is (b"DISAGREES WITH: the log's call trace (crash " in own.stderr)
    trace = dump_trace([line.decode(errors="replace") for line in read_log(dump)])
    assert trace is not None
    (by_vmbox,), (by_drgn,) = backtrace.parse(answer["output"]), backtrace.parse(drgn["stack"])
    between = stacks.between(replace(by_vmbox, task=by_drgn.task), by_drgn, by=answer["debugger"], against="drgn")
    assert between is not None
    assert between.agrees is not misread, between
    verdict = stacks.judge_task(by_drgn, trace, by="drgn")
    assert verdict is not None
    assert verdict.agrees, verdict
    # The watchdog's own stack, of a kernel thread, has three functions below panic().
    assert min(len(one.stack) for one in (verdict, between)) > (2 if trigger == "hung-task" else 5)


def test_a_crash_that_is_too_old_for_the_kernel_is_contradicted(docker_engine: EngineUnderTest, dumps) -> None:
    """crash 9.0.2 misreads the ORC of 7.2 and prints functions of an earlier system call; drgn does not."""
    dump = str(dumps("7.2", form="level-0"))
    asked = {name: docker_engine.run("run", dump, "--json", "--with", name, "--", "bt") for name in ("drgn", "crash")}
    default = docker_engine.run("run", dump, "--json", "--", "bt")
    docker_engine.run("close", dump)
    answers = {name: json.loads(one.stdout) for name, one in asked.items()}
    assert answers["drgn"]["verdicts"][0]["agrees"], answers["drgn"]
    assert b"AGREES WITH: the log's call trace" in asked["drgn"].stderr
    assert not answers["crash"]["verdicts"][0]["agrees"], answers["crash"]
    said = asked["crash"].stderr.decode()
    assert "DISAGREES WITH: the log's call trace (crash has " in said
    assert "the kernel printed: sysrq_handle_crash < __handle_sysrq < write_sysrq_trigger" in said
    assert "--with drgn -- bt" in said
    # Without a wish the one that knows the kernel answers.
    assert json.loads(default.stdout)["debugger"] == "drgn"


def test_a_stale_frame_in_place_of_the_fault_is_contradicted(docker_engine: EngineUnderTest, dumps) -> None:
    """crash 7.2.9 does not know how 5.8 and newer enter an exception; 9.0.2, which is used, does."""
    dump = str(dumps("5.10", trigger="null-pointer"))
    own = docker_engine.run("run", dump, "--image", "debian-11", "--with", "crash", "--json", "--", "bt")
    docker_engine.run("close", dump)
    answer = json.loads(own.stdout)
    assert "[exception RIP: vmbox_gateway" not in answer["output"]
    assert not answer["verdicts"][0]["agrees"], answer
    said = own.stderr.decode()
    assert "DISAGREES WITH: the log's call trace (crash has " in said
    assert "crash 7.2.9 of debian-11 knows kernels up to 5.6" in said


def test_makedumpfiles_fault_is_named_where_pages_are_missing(docker_engine: EngineUnderTest, dumps) -> None:
    """1.7.8 leaves out the tails of 7.2's compound pages, e.g. the table of tasks, modules and interrupts.

    What can be read is listed, and the rest is said.
    """
    dump = str(dumps("7.2"))
    words = ("ps", "sys", "p nr_threads", "mod", "mount", "net", "irq -s", "dev -d")
    arguments = [word for words_of in words for word in ("--", *words_of.split())]
    done = docker_engine.run("run", dump, "--json", *arguments)
    report = json.loads(docker_engine.run("report", dump, "--json").stdout)
    docker_engine.run("close", dump)
    answers = {answer["command"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    failed = {word: answer["output"] for word, answer in answers.items() if answer["status"] != "ok"}
    # All tasks are found, by the kernel's list where its table cannot be read.
    (counted,) = re.findall(r"nr_threads = \(int\)(\d+)", answers["p nr_threads"]["output"])
    assert len(_TASK.findall(answers["ps"]["output"].replace("nan", "0"))) == int(counted)
    assert [one["agrees"] for one in answers["sys"]["verdicts"] if one["subject"] == "tasks"] == [True]
    assert "sys" not in failed
    for word, output in failed.items():
        assert re.search(r"(?m)^drgn: crash: error: .* (?:is|are) left out: pages of (?:it|them) are not", output), word
    assert failed
    assert b"makedumpfile before 1.8.0 leaves out tail pages of compound pages" in done.stderr
    assert b"makedumpfile -d 23" in done.stderr
    # drgn lists the modules that it can read; what is left out is said.
    modules = answers["mod"]["output"]
    listed = {line.split()[1] for line in modules.splitlines() if line.startswith("ff")}
    left_out = set(re.findall(r"(?m)^drgn: crash: error: (\S+) is left out", modules))
    assert listed | left_out >= {"virtio_blk", "qemu_fw_cfg"}
    # So it is in a report: no part is short without a reason.
    parts = {"ps": "tasks", "mod": "modules", "mount": "mounts", "net": "network", "irq -s": "interrupts"}
    assert {part for word, part in (parts | {"dev -d": "disks"}).items() if word in failed} <= set(report["missing"])
    assert report["tasks_total"] == int(counted) + 2
    assert report["lost_pages"].startswith("makedumpfile before 1.8.0")
    assert {one["subject"]: one["agrees"] for one in report["verdicts"]} == dict.fromkeys(
        ("stack", "date", "uptime", "tasks"), True
    )


def _directly(engine: EngineUnderTest, dump: Path) -> Iterator[str]:
    """What crash prints for each command, started by hand in the dump's container with the commands on its stdin."""
    mark = "a line of this test and of nothing else"
    # At a terminal, crash parts these two from what follows; on its stdin it does not.
    typed = [re.sub(r"^([*<])(?=\S)", r"\1 ", command) for command in COMMANDS]
    lines = f"!echo {mark}\n" + "".join(f"{command}\n!echo {mark}\n" for command in typed)
    parts = crash_by_hand(engine, dump, lines).decode(errors="backslashreplace").split(f"{mark}\n")
    # What comes before the first are the warnings of its start.
    assert parts[-1] == ""
    yield from parts[1:-1]

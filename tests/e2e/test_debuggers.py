"""Debuggers by their protocol: crash, drgn, and a third that needs no line in session, case or commands."""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

import refusals
from engines import EngineUnderTest
from sandbox.case.opening import find_or_open_case
from sandbox.case.options import OpenOptions
from sandbox.case.places import DUMP, VMLINUX
from sandbox.debugger import DEBUGGERS, Debugger, StartMode
from sandbox.debugger.drgn import Drgn
from sandbox.errors import CommandTimeout, SessionDied, SessionFailed
from sandbox.model import Case
from sandbox.profiles import by_name
from sandbox.progress import QUIET, Step
from sandbox.session.script import run_script
from sandbox.session.session import Session


class ShellErrors:
    def __init__(self) -> None:
        self.text = b""

    def feed(self, piece: bytes) -> None:
        self.text += piece

    def found(self) -> bool:
        return b"not found" in self.text

    def missing(self) -> str | None:
        return None

    def note(self) -> str | None:
        return None

    def unknown(self) -> bool:
        return False


class Toy(Drgn):
    """A shell as a debugger. What is not here is as of drgn: a debugger of one's own has a module with all of it."""

    name = "toy"
    start_modes: Sequence[StartMode] = (StartMode("--no-such-option", ""), StartMode("-u", "nothing is missing"))

    def session_argv(self, vmlinux: str, dumps: Sequence[str], mode: StartMode) -> Sequence[str]:
        assert vmlinux.endswith("vmlinux")
        return ["sh", mode.option, "-s", *dumps]

    def echo(self, marker: bytes, mode: StartMode) -> bytes:
        return b"echo " + marker

    def complaints(self, command: str, version: str) -> ShellErrors:
        return ShellErrors()


class Noting:
    """A reporter that keeps what it is told."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def step(self, *_: object, **_more: object) -> AbstractContextManager[Step]:
        return QUIET.step("")

    def notice(self, line: str) -> None:
        self._said.append(line)


@pytest.fixture
def case(
    request: pytest.FixtureRequest, podman_rootful: EngineUnderTest, dumps, monkeypatch: pytest.MonkeyPatch
) -> Case:
    """The case of a dump of 6.1, or of the kernel that a test names, opened as "options" say."""
    for name, value in podman_rootful.env.items():
        if name.startswith("VMBOX_"):
            monkeypatch.setenv(name, value)
    wanted = {"options": OpenOptions(), **getattr(request, "param", {})}
    options = wanted.pop("options")
    return find_or_open_case(Path(dumps(**wanted)), options)


def ask(case: Case, debugger: Debugger, *commands: str) -> list[tuple[str, str]]:
    with closing(Session(case, debugger=debugger)) as session:
        session.start()
        answers = []
        for command in commands:
            output = io.BytesIO()
            done = session.run(command, output.write)
            answers.append((done.status, output.getvalue().decode()))
        return answers


def test_crash_drgn_and_a_toy_take_turns_in_one_case(case: Case) -> None:
    crash, drgn = DEBUGGERS["crash"], DEBUGGERS["drgn"]
    ((status, stack),) = ask(case, crash, "bt")
    assert status == "ok"
    assert "sysrq_handle_crash" in stack
    answers = ask(case, drgn, "bt", "dis schedule", "sys -i", "nosuch", "p jiffies | wc -w", "bt > f", "!head -n1 f")
    assert answers[0][0] == "ok"
    assert "sysrq_handle_crash" in answers[0][1]
    for (status, said), command in zip(answers[1:3], ("dis schedule", "sys -i"), strict=True):
        assert status == "error"
        assert said.endswith(f"hint: crash may answer it: vmbox run {case.dump} --with crash -- {command}\n")
    assert answers[3] == ("error", "drgn: crash: nosuch: command not found\n")
    assert answers[4:6] == [("ok", "5\n"), ("ok", "")]
    assert answers[6] == ("ok", answers[0][1].partition("\n")[0] + "\n")
    # Another debugger ends the one whose FIFOs it takes, and no other; each has its own modes, marker and complaints.
    pids = ask(case, crash, "!echo $PPID")
    answers = ask(case, Toy(), "echo $1", "nosuch", "sleep 0.1; echo late")
    assert answers[0] == ("ok", "/case/vmcore\n")
    assert answers[1][0] == "error"
    assert answers[2] == ("ok", "late\n")
    assert (case.directory / "mode-toy").read_text() == "-u"
    assert (case.directory / "begun-2").read_text() == "toy -u"
    assert ask(case, crash, "!echo $PPID") == pids
    assert ask(case, drgn, "bt")[0][1] == ask(case, drgn, "bt")[0][1] != ""


ASKED = """
sys
set
bt
bt -a
bt -l
bt 1
ps
ps -m
ps -t
ps | grep -c kworker
foreach bt
foreach UN bt
runq
kmem -i
kmem -s
log
log | tail -3
mod
mount
net
irq -s
dev -d
files 1
vm 1
task 1
timer
swap
sig 1
ipcs
struct list_head
struct task_struct.pid,comm init_task
*task_struct.comm init_task
list_head
p jiffies
p init_task.comm
p nosuch
rd jiffies_64 4
sym schedule
sym nosuch
bt 999999
irq 99999
help nosuch
mod -s nosuch
whatis schedule
vtop init_task
eval 1 + 2
search -c nosuchtext
list task_struct.tasks -s task_struct.pid -H init_task
help bt
mach
bt -Z
bt > /scratch/bt.txt
!wc -l /scratch/bt.txt
""".strip().splitlines()


@pytest.mark.parametrize("case", [{}, {"kernel": "7.2", "form": "level-0"}], ids=["6.1", "7.2"], indirect=True)
def test_answers_are_what_drgn_prints(case: Case, podman_rootful: EngineUnderTest) -> None:
    """The same commands, given by hand to drgn's own function for them, in the same container.

    Of 7.2 a dump with all pages: where some are missing, vmbox has drgn go on with the rest of a list, and says so.
    """
    mark = "a line of this test and of nothing else"
    code = (
        "import sys\n"
        "from drgn.commands import _write_command_error, run_command\n"
        "def say(error): _write_command_error(sys.stderr, error, prefix='drgn: crash')\n"
        "for line in sys.stdin:\n"
        "    run_command(prog, 'crash ' + line.rstrip(), globals=globals(), onerror=say)\n"
        f"    print({mark!r})\n"
    )
    argv = ["drgn", "-q", "--no-default-symbols", "-c", DUMP, "-s", VMLINUX, "-e", code]
    wrapper = ["sh", "-c", 'PYTHONUNBUFFERED=1 exec "$@" 2>&1', "sh", *argv]
    with podman_rootful.engine.exec(case.container, wrapper, stdin=True) as process:
        process.write("".join(f"{command}\n" for command in ASKED).encode())
        process.close_stdin()
        said = b"".join(iter(process.read, b"")).decode(errors="surrogateescape")
    expected = said.split(f"{mark}\n")[:-1]
    assert len(expected) == len(ASKED), said[-1000:]
    answers = ask(case, DEBUGGERS["drgn"], *ASKED)
    hint = ("hint: crash may answer it", "vmbox: mod: nothing matches nosuch")
    differing = [
        "\n".join([command, *difflib.unified_diff(there.splitlines(), ours.splitlines(), "drgn", "vmbox")])
        for command, (_, answer), there in zip(ASKED, answers, expected, strict=True)
        if (ours := "".join(line for line in answer.splitlines(keepends=True) if not line.startswith(hint))) != there
    ]
    assert not differing, "\n\n".join(differing)
    failed = {command for command, (status, _) in zip(ASKED, answers, strict=True) if status == "error"}
    refused = {"sym nosuch", "bt 999999", "irq 99999", "help nosuch", "mod -s nosuch"}
    assert {"p nosuch", "mach", "bt -Z"} | refused <= failed
    assert not failed & {"bt", "ps", "log", "kmem -i", "runq", "foreach bt", "files 1", "vm 1"}


REFUSING = [{}]
if os.environ.get("VMBOX_TEST_FIDELITY") == "all":
    REFUSING += [
        {"kernel": kernel, "options": OpenOptions(image=image)}
        for kernel, image in (("5.10", "debian-11"), ("6.1", "debian-12"), ("6.12", "debian-13"), ("6.12", "latest"))
    ]
    REFUSING += [{"options": OpenOptions(no_debuginfo=True)}]


@pytest.mark.parametrize("case", REFUSING, indirect=True)
def test_what_a_debugger_refuses_is_an_error(case: Case) -> None:
    """159 commands, right and wrong, have the status that was recorded, with each debugger of the case."""
    if case.vmlinux is None:
        asked = {"drgn without debuginfo": "drgn"}
    else:
        asked = {f"crash {by_name(case.profile).crash.version}": "crash"}
        # drgn's dev needs Python 3.10: it asks bisect for a key.
        asked |= {} if case.profile == "debian-11" else {"drgn": "drgn"}
    commands = refusals.commands()
    differing = []
    for name, debugger in asked.items():
        expected = refusals.recorded()[name]
        for command, (status, said) in zip(commands, ask(case, DEBUGGERS[debugger], *commands), strict=True):
            # crash says so of a CPU that was stopped where an exception begins, which is another matter in each dump.
            stopped_there = command in {"bt -a", "foreach bt"} and "bt: cannot transition from exception stack" in said
            if (status == "error" and not stopped_there) != expected[command]["refused"]:
                differing.append((name, command, status, said[:200]))
    assert differing == []


def test_two_debuggers_are_asked_in_one_turn(case: Case) -> None:
    with closing(Session(case)) as session:
        session.start()
        with closing(session.beside(DEBUGGERS["drgn"])) as other:
            other.start()
            for one in (session, other, session):
                output = io.BytesIO()
                assert one.run("log | tail -1", output.write).status == "ok"
                assert b"</TASK>" in output.getvalue()


def test_an_interrupt_stops_the_command_and_not_the_debugger(case: Case) -> None:
    with closing(Session(case, debugger=DEBUGGERS["drgn"])) as session:
        session.start()
        session.run("drgn kept = 7", lambda _: None)
        with pytest.raises(CommandTimeout):
            session.run("drgn import time; time.sleep(60)", lambda _: None, timeout=0.5)
        output = io.BytesIO()
        session.run("drgn print(kept)", output.write)
        assert output.getvalue() == b"7\n"


def test_a_drgn_that_dies_or_hangs_is_said_in_one_line(case: Case) -> None:
    drgn = DEBUGGERS["drgn"]
    with closing(Session(case, debugger=drgn)) as session:
        session.start()
        with pytest.raises(SessionDied, match=r"drgn died of signal 9|drgn was killed"):
            session.run("drgn import os; os.kill(os.getpid(), 9)", lambda _: None)
    said: list[str] = []
    with closing(Session(case, Noting(said), drgn)) as session:
        session.start()
        deaf = "drgn import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
        with pytest.raises(CommandTimeout):
            session.run(deaf, lambda _: None, timeout=0.5)
        assert said[-1].startswith("drgn does not answer the interrupt; it is ended")
        output = io.BytesIO()
        session.run("bt", output.write)
        assert b"sysrq_handle_crash" in output.getvalue()


def test_a_debugger_that_does_not_start_says_so(case: Case) -> None:
    class Broken(Toy):
        name = "broken"
        start_modes = (StartMode("--no-such-option", ""),)

    with closing(Session(case, debugger=Broken())) as session, pytest.raises(SessionFailed, match="broken"):
        session.start()


# Adds to a stack what drgn reads below an entry of a kernel with frame pointers: at address 0, and where that leads.
_JUNK = """
from types import SimpleNamespace
import module_tables
from drgn.commands._crash import _bt
from drgn.helpers.linux.stack import LinuxKernelStack, StackKind, StackSegment
module_tables._has_orc = lambda prog: False
made = _bt.kernel_stack_trace
def with_junk(task):
    frames = [SimpleNamespace(pc=pc, interrupted=False) for pc in (0, 0xf000ff53f000e2c3)]
    junk = StackSegment(StackKind.UNKNOWN, frames)
    return LinuxKernelStack(prog, [*made(task).segments, junk])
_bt.kernel_stack_trace = with_junk
""".strip()


# A call of NULL, of which drgn finds the caller, and the registers of a program that a kernel thread has not.
_BAD_CALL = """
from types import SimpleNamespace
import module_tables
from drgn.helpers.linux.stack import LinuxKernelStack, StackKind, StackSegment
places = [(1 << 64) - 4096, 0, (1 << 64) - 8192, 0, 0xf000ff53f000e2c3]
frames = [SimpleNamespace(pc=pc, interrupted=pc == 0, sp=places[0]) for pc in places]
frames[3].sp = 0
stack = LinuxKernelStack(prog, [StackSegment(StackKind.TASK, frames)])
kept, left_out = module_tables._without_junk(stack, frames)
print([frame.pc for segment in kept.segments for frame in segment.frames] == places[:3], left_out)
""".strip()


def test_frames_of_what_is_no_stack_are_left_out(case: Case) -> None:
    drgn = DEBUGGERS["drgn"]
    before = ask(case, drgn, "bt", "bt 2")
    with closing(Session(case, debugger=drgn)) as session:
        session.start()
        said = io.BytesIO()
        assert run_script(session, "bad-call", _BAD_CALL.encode(), (), said.write) == ("ok", b"")
        assert said.getvalue() == b"True 2\n"
        assert run_script(session, "junk", _JUNK.encode(), (), lambda _: None) == ("ok", b"")
    left_out = "bt: what drgn has below is left out (2 frames): it is of memory that is no stack\n"
    after = ask(case, drgn, "bt", "bt 2")
    with closing(Session(case, debugger=drgn)) as session:
        session.start()
        with pytest.raises(SessionDied):
            session.run("drgn import os; os._exit(1)", lambda _: None)
    assert after == [(status, said + left_out) for status, said in before]


# Hides a mount from drgn, as makedumpfile leaves pages out: one in which no other is, and no root of a tree of five.
_HIDE = """
from drgn import FaultError
from drgn.helpers.linux.fs import for_each_mount
def fault(address, count, offset, physical):
    raise FaultError("Excluded page", address)
third = list(for_each_mount(prog["init_task"].nsproxy.mnt_ns))[2]
prog.add_memory_segment(third.value_(), prog.type("struct mount").size, fault)
""".strip()


@pytest.mark.parametrize("case", [{}, {"kernel": "7.2", "form": "level-0"}], ids=["6.1", "7.2"], indirect=True)
def test_rows_behind_a_missing_page_are_listed(case: Case) -> None:
    """A list of 6.1, a tree of 7.2: what can be reached is shown, and how many rows are not is said."""
    drgn = DEBUGGERS["drgn"]
    before = ask(case, drgn, "mount")[0][1].splitlines()[1:]
    with closing(Session(case, debugger=drgn)) as session:
        session.start()
        assert run_script(session, "hide", _HIDE.encode(), (), lambda _: None) == ("ok", b"")
    ((status, said),) = ask(case, drgn, "mount")
    *rows, complaint = said.splitlines()[1:]
    assert status == "error"
    assert set(rows) < set(before)
    assert len(rows) > 1
    lost = len(before) - len(rows)
    assert complaint == f"drgn: crash: error: mounts ({lost}) are left out: pages of them are not in the dump"
    with closing(Session(case, debugger=drgn)) as session:
        session.start()
        with pytest.raises(SessionDied):
            session.run("drgn import os; os._exit(1)", lambda _: None)

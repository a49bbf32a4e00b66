"""What crash prints of a dump, command by command, with vmlinux as it was shipped and as vmbox prepared it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.debuginfo import strip_relocs
from sandbox.debuginfo.http_ranges import BlockStream, HttpFile, RemoteStream, XzBlocks
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.formats import deb, tar
from sandbox.progress import QUIET

COMMANDS = """\
sys
sys -c
sys -i
sys config
mach
mach -m
mach -c
bt
bt -a
bt -l
bt -f
bt -F
bt -s
bt -t
bt -r
bt -e
bt 0
bt -c 0
ps
ps -t
ps -a
ps -p 1
ps -l
ps -s
ps -G init
ps -r 1
ps -m
ps -S
task
task -R pid,comm,mm
files 1
files
vm 1
vm -m 1
vm -p 1
log
log -T
log -m
mod
mod -t
net
net -a
dev
dev -p
dev -d
irq
irq -s
irq -a
timer
timer -r
runq
runq -t
swap
mount
mount -f
kmem -i
kmem -s
kmem -v
kmem -z
kmem -o
kmem -h
kmem -g
kmem -n
kmem -V
sig 1
sig -l
ipcs
waitq log_wait
foreach bt
foreach files
foreach task -R flags
set
set -p
sym schedule
sym -l
sym -q panic
sym linux_banner
struct task_struct
struct -o task_struct
struct list_head
struct task_struct.pid,comm init_task
union thread_union
whatis task_struct
whatis init_task
p jiffies
p init_task
p linux_banner
p -x init_task.flags
px jiffies
rd linux_banner 8
rd -a linux_banner
rd -s init_task 16
search -u 12345678deadbeef
dis schedule
dis -l schedule 20
dis -r sysrq_handle_crash
dis -s panic
list -H modules
list task_struct.tasks -h init_task
tree -t rbtree vmap_area_root
btop 1000
ptob 1
vtop init_task
ptov 0
eval 1 + 1
ascii
extend
alias
gdb info line schedule
gdb info types page_flags
gdb ptype struct page
gdb info scope do_exit
gdb info functions ^sysrq_
gdb info variables ^init_task
gdb list panic
gdb print sizeof(struct inode)
help -k
"""
"""Each is one line of crash's. Those a version does not know give the same error both times."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One session with crash."""

    answers: dict[str, bytes]


def shipped_vmlinux(url: str, release: str, target: Path) -> Path:
    """vmlinux of a Debian debug package, every byte of it."""
    if target.exists():
        return target
    with QUIET.step("") as step:
        file = HttpFile(url, None, QUIET, step)
        _, data = deb.data_part(RemoteStream(file))
        with contextlib.closing(XzBlocks(file, data.offset, data.size)) as blocks:
            stream = BlockStream(blocks)
            for member in tar.members(stream):
                if member.regular and member.path == f"usr/lib/debug/boot/vmlinux-{release}":
                    part = target.with_suffix(".part")
                    strip_relocs.copy(strip_relocs.Part(blocks, stream.at, member.size), part, None)
                    part.replace(target)
                    return target
    raise FileNotFoundError(f"{url} has no vmlinux")


def speak(engine: Engine, image: str, vmlinux: Path, dump: Path, *, commands: Sequence[str], scratch: Path) -> Spoken:
    """A fresh crash in a container without network, given `commands` one after the other."""
    lines = ["!echo @@@begin"]
    for number, command in enumerate(commands):
        lines += [command, f"!echo @@@{number}"]
    script = scratch / "commands"
    script.write_text("\n".join([*lines, "quit", ""]))
    spec = ContainerSpec(
        image=image,
        argv=["sh", "-c", "crash -s --no_crashrc /case/vmlinux /case/vmcore </case/commands 2>&1"],
        env={"HOME": "/tmp", "LC_ALL": "C.UTF-8", "TERM": "dumb"},
        binds=[
            Bind(source=vmlinux.resolve(), target="/case/vmlinux"),
            Bind(source=dump.resolve(), target="/case/vmcore"),
            Bind(source=script.resolve(), target="/case/commands"),
        ],
        tmpfs=[Tmpfs(target="/tmp", size=256 << 20)],
        workdir="/tmp",
    )
    # What it said before the first command is no answer.
    _, *pieces = re.split(rb"@@@(?:begin|\d+)\n", b"".join(engine.run(spec)))
    return Spoken(answers=dict(zip(commands, pieces, strict=False)))


OF_CRASH: Final = {"7": frozenset({"gdb info functions ^sysrq_"}), "9": frozenset({"p linux_banner"})}
"""By crash's major version, answers that an index changes in its gdb.

The gdb of crash 7 lists functions in the order in which it comes to read their units, which is the index's with one,
and without one overlooks a function: sysrq_handler of drivers/xen/manage.c, which it finds with an index.

Several units have linux_banner, and in some it has no length. Without an index gdb 10, of crash 8, takes the last unit
and gdb 16, of crash 9, another one: one order of units cannot be that of both. That of the index is gdb 10's, so crash
9 prints linux_banner as its definition has it, with a length, where without an index it prints an address first.
"""


def differences(before: Spoken, after: Spoken) -> dict[str, tuple[bytes, bytes]]:
    """Commands whose answers are not byte-identical."""
    return {
        command: (answer, after.answers.get(command, b"(nothing)"))
        for command, answer in before.answers.items()
        if comparable(after.answers.get(command, b"")) != comparable(answer)
    }


def comparable(answer: bytes) -> bytes:
    """Without the addresses of crash itself, which it prints where it has lost its way: no two runs have the same.

    And without the name before the error of an input file: crash takes it from the command that came before.
    """
    answer = re.sub(rb"^\S+(?=: nosuch: No such file)", b"crash", answer)
    return re.sub(rb"error trace: .*", b"error trace", answer)

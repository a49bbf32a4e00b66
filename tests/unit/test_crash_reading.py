"""Which commands an assistant may give: only those that are known to read."""

from __future__ import annotations

import pytest

from sandbox.debugger import DEBUGGERS, DEFAULT
from sandbox.errors import UsageError


@pytest.mark.parametrize(
    "command",
    [
        # Shells, pipes and redirections.
        "!ls",
        "! ls",
        "|ls",
        "bt | sh",
        "log | grep x /proc/1/environ",
        "log | sort -o /scratch/x",
        "bt > file",
        "bt >> file",
        "< file",
        "bt < file",
        "rd `x`",
        "rd $(id)",
        "bt; id",
        "bt\n!id",
        "bt\t!id",
        "bt\\",
        # gdb's functions, variables and values that change.
        'p $_shell("id")',
        'px $_shell("id")',
        'p/x $_shell("id")',
        'print $_shell("id")',
        "whatis $_shell",
        "p $_as_string(1)",
        "p $lx_current()",
        'struct task_struct.$_shell("id")',
        'rd ($_shell("id"))',
        "p jiffies = 0",
        "p jiffies=0",
        "p a == 1, b = 2",
        "p jiffies += 1",
        "p jiffies++",
        "p jiffies-->init_task",
        '"eval shell id" 1',
        " 'list' x",
        "p --jiffies",
        "print -elements 4 -- jiffies",
        # Words that crash hands to gdb.
        "gdb shell id",
        "shell id",
        "python print(1)",
        "python-interactive 1",
        "source file",
        "output 1",
        'printf "%s", 1',
        "call f(1)",
        "compile code 1",
        "dump memory file 0 1",
        "pipe p 1",
        "x/10i 0",
        # Quotes, which crash takes away.
        'rd "-r" file jiffies 8',
        'rd -"r" file jiffies 8',
        'dis "-s" panic',
        'mod "-s" ext4 /scratch/x',
        'sys "-panic"',
        'foreach "gdb" bt',
        """foreach 'gdb' bt""",
        '"',
        "info line",
        "foreach bt gdb shell",
        "foreach gdb shell id",
        "task_struct.comm",
        # Commands that write, leave, never end, or change what later answers mean.
        "wr jiffies 0",
        "rd -r file jiffies 8",
        "rd -dr file jiffies",
        "rd -xr file jiffies",
        "exit",
        "quit",
        "q",
        "extend file.so",
        "repeat bt",
        "alias bt !id",
        "set gdb on",
        "sys -panic",
        "sys panic -panic",
        "dis -s schedule",
        "dis -ls schedule",
        "mod -s ext4 /scratch/evil.ko",
        "mod -S /scratch",
        "mod -o",
        "mod -d ext4",
        "BT",
        "bt\u200b",
        "\uff42t",
        "p \u0440",
        "",
        "  ",
        "/bin/sh",
        "./x",
    ],
)
def test_what_may_do_more_than_read_is_refused(command: str) -> None:
    with pytest.raises(UsageError):
        DEFAULT.check_reading(command)


@pytest.mark.parametrize(
    "command",
    [
        "bt",
        "bt -a",
        "bt -FF 1234",
        "foreach UN bt",
        "foreach bash files -R /etc",
        "p init_task->comm",
        "p init_task.pid",
        "p &init_task",
        "p/x jiffies",
        "p *(struct page *)0xffffea0000000000",
        "p -x runqueues:0",
        "p jiffies == 0",
        "p 5 - 3",
        "px jiffies_64",
        "struct task_struct.comm,pid ffff888003510000",
        "*task_struct.comm ffff888003510000",
        "list task_struct.tasks -s task_struct.comm -h ffff888003510000",
        "tree -t rbtree -o vm_area_struct.vm_rb ffff888003510000",
        "rd -8 jiffies 16",
        "rd -p 1000 4",
        "dis -rl sysrq_handle_crash+22",
        "kmem -i",
        "search -c 'some text'",
        "log -T",
        "mod",
        "mod -t",
        "mod -S",
        "mod -s ext4",
        "sys -t",
        "eval 1 + 2",
        "files -c",
        "help bt",
        "whatis task_struct",
    ],
)
def test_what_reads_is_not(command: str) -> None:
    DEFAULT.check_reading(command)


def test_drgn_has_no_such_commands() -> None:
    with pytest.raises(UsageError):
        DEBUGGERS["drgn"].check_reading("print(1)")

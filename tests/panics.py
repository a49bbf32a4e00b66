"""A panic as crash's `bt` prints it, and as the kernel's log has it."""

from __future__ import annotations

STACK = """PID: 1        TASK: ff429f4ac12b8000  CPU: 1  COMMAND: "init"
 #0 [ff6880a180013c38] panic at ffffffffaf60c49b
 #1 [ff6880a180013c98] sysrq_handle_crash at ffffffffb01b16ba
 #2 [ff6880a180013ca0] __handle_sysrq at ffffffffaf679d99
"""

LOG = [
    "Kernel panic - not syncing: sysrq triggered crash",
    "CPU: 1 PID: 1 Comm: init Not tainted 6.1.0 #1",
    "Call Trace:",
    " <TASK>",
    " panic+0x6b/0x70",
    " sysrq_handle_crash+0x1a/0x20",
    " __handle_sysrq.cold+0xba/0x1b9",
    " </TASK>",
]

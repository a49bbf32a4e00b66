"""Questions of a report that drgn has no command for: scripts that answer in crash's words, so both are read alike.

They run in the case, in the warm drgn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sandbox.debugger.protocol import COUNT_TASKS

_HARDWARE: Final = """
# The strings that the kernel copied from the firmware's tables (drivers/firmware/dmi_scan.c).
names = {value: name for name, value in prog.type("enum dmi_field").enumerators}
for number, text in enumerate(prog["dmi_ident"]):
    if text and number in names:
        print(f"{names[number]:>22}: {text.string_().decode(errors='backslashreplace')}")
"""

_TAINT: Final = """
mask = prog["tainted_mask"].value_()
letters = ""
for number, flag in enumerate(prog["taint_flags"]):
    if mask >> number & 1:
        letters += chr(flag.c_true.value_())
print(f"TAINTED_MASK: {mask:x}  {letters}")
"""

_MACHINE: Final = """
print(f"          MACHINE TYPE: {prog['init_uts_ns'].name.machine.string_().decode()}")
try:
    # Nanoseconds of a tick (kernel/time/ntp.c); a file may have a variable of its own with this name.
    print(f"                    HZ: {round(1e9 / prog.variable('tick_nsec', 'kernel/time/ntp.c').value_())}")
except LookupError:
    pass
"""

_COUNT: Final = """
counted = prog["nr_threads"]
print(f"{counted.address_:x}: {counted.value_()}")
# `sys` counts by the table of PIDs. This goes by the list of processes and, of each, the list of its threads (commit
# 0c740d0afc3b ("introduce for_each_thread() to replace the buggy while_each_thread()"), v3.14).
from itertools import chain, islice
from drgn import FaultError
from drgn.helpers.linux.list import list_for_each, list_for_each_entry

processes = list_for_each_entry("struct task_struct", prog["init_task"].tasks.address_of_(), "tasks")
threads = chain.from_iterable(list_for_each(process.signal.thread_head.address_of_()) for process in processes)
try:
    # A list that is damaged may have no end.
    print(f"walk: {sum(1 for _ in islice(threads, 2 * counted.value_() + 1000))}")
except (FaultError, AttributeError):
    pass  # a page of a list is not in the dump, or the kernel has none: then the kernel's number is all there is
"""

QUESTIONS: Final[Mapping[str, str]] = {
    "sys -i": _HARDWARE,
    "sys -t": _TAINT,
    "mach": _MACHINE,
    COUNT_TASKS: _COUNT,
}
"""By crash's command."""

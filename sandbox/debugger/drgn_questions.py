"""Questions of a report that drgn has no command for: scripts that answer in crash's words, so both are read alike.

They run in the case, in the warm drgn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

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

QUESTIONS: Final[Mapping[str, str]] = {"sys -i": _HARDWARE, "sys -t": _TAINT, "mach": _MACHINE}
"""By crash's command."""

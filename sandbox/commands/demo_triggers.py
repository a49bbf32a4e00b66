"""What can end the kernel of `vmbox demo`, and what each needs of the kernel that dies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """What ends the kernel."""

    module: bool = True
    """Whether it needs what is compiled for the kernel: the module (Containerfile.d/files/demo-trigger.c), or the
    program beside it (demo-user.c). Else it is a word of demo-init."""
    append: str = ""
    """Parameters of the kernel."""
    settings: Sequence[str] = ("kernel/panic_on_oops=1",)
    """FILE=VALUE, below /proc/sys or absolute; one that the kernel does not have is passed over."""
    slow_disk: bool = False
    """Whether it has a second disk, vdb, of which 1 KiB a second is read."""
    sysrq_after: int = 0
    """Seconds after which the kernel is made to panic, where nothing in it does; 0: it panics by itself."""


_HUNG: Final = ("kernel/hung_task_panic=1", "kernel/hung_task_timeout_secs=3")
TRIGGERS: Final[Mapping[str, Trigger]] = {
    "sysrq": Trigger(module=False, settings=()),
    "oom": Trigger(module=False, settings=("vm/panic_on_oom=1",)),
    "hung-task": Trigger(module=False, settings=_HUNG),
    "blocked-io": Trigger(module=False, settings=(), slow_disk=True, sysrq_after=10),
    "null-pointer": Trigger(),
    "null-call": Trigger(),
    # Newer kernels call it slab_debug, and take this, too: so did 7.2.
    "use-after-free": Trigger(append="slub_debug=FZPU,vmbox_packet"),
    "list-corruption": Trigger(),
    "bug": Trigger(),
    "general-protection": Trigger(),
    "divide-error": Trigger(),
    "warning": Trigger(settings=("kernel/panic_on_warn=1",)),
    "refcount": Trigger(settings=("kernel/panic_on_warn=1",)),
    "buffer-overflow": Trigger(),
    "stack-protector": Trigger(),
    "out-of-bounds": Trigger(),
    "execute-data": Trigger(),
    "user-copy": Trigger(),
    "bad-page-state": Trigger(sysrq_after=1),
    "double-fault": Trigger(),
    "stack-overflow": Trigger(),
    "soft-lockup": Trigger(settings=("kernel/softlockup_panic=1", "kernel/watchdog_thresh=2")),
    "rcu-stall": Trigger(
        settings=("kernel/panic_on_rcu_stall=1", "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout=3")
    ),
    "workqueue": Trigger(settings=("/sys/module/workqueue/parameters/watchdog_thresh=3",), sysrq_after=15),
    "deadlock": Trigger(settings=_HUNG),
    "rwsem": Trigger(settings=_HUNG),
    "rwsem-readers": Trigger(settings=_HUNG),
    # Kinds of waiting beside each other, and a program's.
    "waiting": Trigger(settings=(), sysrq_after=6),
    "futex": Trigger(settings=(), sysrq_after=4),
    # 2,000 tasks behind one lock.
    "convoy": Trigger(settings=("kernel/hung_task_panic=1", "kernel/hung_task_timeout_secs=10")),
}
"""By the word of `DemoSpec.trigger`."""

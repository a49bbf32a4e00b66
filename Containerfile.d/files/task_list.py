"""Find the tasks of a dump by the kernel's list of them, where pages of its table of PIDs are not in the dump.

drgn finds tasks by the table. A task is in the list of all processes (task_struct.tasks) or in that of its process's
threads (signal_struct.thread_head, since 3.14). Where a page of a list is missing, it is followed from both ends.
"""

from broken_links import list_entries
from drgn import NULL, FaultError
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.sched import idle_task


class TaskList:
    """The tasks of a dump, without idle ones, in the order of their PIDs."""

    def __init__(self, prog):
        self._prog = prog
        found = {}
        first = prog["init_task"].address_of_()
        for leader in list_entries(first.tasks.address_of_(), "struct task_struct", "tasks"):
            for task in (leader, *_threads(leader)):
                try:
                    task.comm.string_()
                    task.parent.pid.value_()
                    found[task.value_()] = (task.pid.value_(), task)
                except FaultError:
                    continue
        self._tasks = [task for _, task in sorted(found.values(), key=lambda one: one[0])]
        self.lost = max(prog["nr_threads"].value_() - len(self._tasks), 0)
        """How many tasks the kernel counted that are not among them."""
        self.listed = False
        """Whether it was asked for all of them; to be set to False again."""

    def for_each(self, prog, ns=None, *, idle=False):
        """In place of drgn's `for_each_task`. Tasks of other PID namespaces are those of the first, too."""
        del prog, ns
        self.listed = True
        if idle:
            for cpu in for_each_online_cpu(self._prog):
                yield idle_task(self._prog, cpu)
        yield from self._tasks

    def find(self, prog, pid):
        """In place of drgn's `find_task`: NULL where there is none, or none that can be read."""
        del prog
        wanted = int(pid)
        found = next((task for task in self._tasks if task.pid.value_() == wanted), None)
        if found is None and self.lost:
            raise LookupError(f"PID {wanted} is not among the tasks that can be read: {self.lost} cannot")
        return NULL(self._prog, "struct task_struct *") if found is None else found


def _threads(leader):
    try:
        return list(list_entries(leader.signal.thread_head.address_of_(), "struct task_struct", "thread_node"))
    except (FaultError, AttributeError):
        return []

# ruff: noqa: F821 - drgn sets `prog`
# A part of explain-waits.py, which comes behind it: who holds a lock, and who is to complete a completion.
import functools
import itertools

import drgn
from drgn import container_of
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.idr import idr_for_each_entry
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.locking import mutex_owner, rwsem_owner
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.sched import cpu_rq, task_cpu

MOST_FILE_SYSTEMS = 10000
MOST_WORK = 100000  # of all pools

errors = {}
live = {}  # tasks by their addresses


def text_of(characters):
    return characters.string_().decode(errors="backslashreplace")


def seconds_of(task):
    """Since it ran last, by the clock of its CPU."""
    try:
        last = task.sched_info.last_arrival.value_()
        now = cpu_rq(prog, task_cpu(task)).clock.value_()
    except (AttributeError, LookupError, drgn.FaultError):
        return None
    return round((now - last) / 1e9, 3) if 0 < last <= now else None


def symbol_at(address):
    try:
        symbol = prog.symbol(address)
    except LookupError:
        return None
    offset = address - symbol.address
    return symbol.name if not offset else f"{symbol.name}+{offset:#x}"


def owner_of(kind, lock):
    """(task or None, why there is none that can be named)."""
    if kind == "mutex":
        owner = mutex_owner(lock)
        return (owner, "") if owner else (None, "its owner's word is empty")
    if kind == "rw_semaphore":
        word = lock.owner.counter.value_()
        if word & 1:
            return None, readers(lock, word)
        owner = rwsem_owner(lock)
        return (owner, "") if owner else (None, "its owner's word is empty")
    if kind in {"rt_mutex_base", "rt_mutex"}:
        base = lock.rtmutex if kind == "rt_mutex" and hasattr(lock, "rtmutex") else lock
        word = base.owner.value_() & ~1
        return (drgn.Object(prog, "struct task_struct *", word), "") if word else (None, "its owner's word is empty")
    if kind == "percpu_rw_semaphore":
        return writer(lock)
    if kind == "completion":
        return completer(lock)
    if kind == "semaphore":
        return None, holder(lock)
    return None, "the kernel does not record who holds it"


def owners_word(kind, lock):
    """Address of a lock's word with its owner: the address of a task, and flags in the lowest bits; None without."""
    if kind in {"mutex", "rw_semaphore"}:
        return lock.owner.address_of_().value_()
    if kind in {"rt_mutex_base", "rt_mutex"}:
        base = lock.rtmutex if kind == "rt_mutex" and hasattr(lock, "rtmutex") else lock
        return base.owner.address_of_().value_()
    return None


def writer(lock):
    """Of a semaphore with a counter of readers for each CPU (kernel/locking/percpu-rwsem.c): `block` is set from when a
    writer has the right to it, and `writer` until the readers before it have gone.
    """
    if said := frozen(lock):
        return None, said
    reading = sum(per_cpu_ptr(lock.read_count, cpu)[0].value_() for cpu in for_each_possible_cpu(prog)) % (1 << 32)
    many = "1 reader holds it" if reading == 1 else f"{reading} readers hold it"
    unnamed = f"{many}, and which {'task that is' if reading == 1 else 'tasks those are'} is not recorded"
    if not lock.block.counter.value_():
        return None, f"no writer holds it; {unnamed}"
    task = lock.writer.task
    if task:
        # The next writer waits for these readers itself: no task waits for itself.
        return task, unnamed
    return None, "a writer holds it, and which task that is is recorded only until it has it"


def holder(lock):
    said = f"a semaphore has no owner; its count is {lock.count.value_()}"
    try:
        word = lock.last_holder.value_()
    except AttributeError:
        return f"{said}, and who took it is not recorded"
    # With CONFIG_DETECT_HUNG_TASK_BLOCKER, and cleared by the task itself (v6.16).
    if word not in live:
        return f"{said}, and who took it is not recorded"
    task = live[word]
    return f"{said}; the last that took it was {text_of(task.comm)} (PID {task.pid.value_()}), which may have let it go"


def completer(lock):
    """Who is to complete it, where the kernel's own structures say so: a task that ends, work that is flushed."""
    if (found := completers().get(lock.value_())) is not None:
        return found
    if lock.value_() in grace_periods():
        return None, "RCU completes it when a grace period has ended"
    try:
        waiter = container_of(lock, "struct rcu_synchronize", "completion")
        if waiter.head.func.value_() == prog.symbol("wakeme_after_rcu").address:
            return None, "RCU completes it when a grace period has ended"
    except (AttributeError, LookupError, drgn.FaultError):
        pass
    return None, "a completion does not record who is to complete it"


@functools.cache
def grace_periods():
    """Completions of synchronize_rcu(), which are in a list of RCU's own (kernel/rcu/tree.c, v6.10)."""
    found = set()
    try:
        offset = drgn.offsetof(prog.type("struct rcu_synchronize"), "completion")
        entry = prog["rcu_state"].srs_next.first
        while entry and len(found) < MOST_WORK:
            found.add(entry.value_() + offset)
            entry = entry.next
    except (AttributeError, LookupError):
        pass  # an older kernel: its callback says what it is
    except drgn.FaultError as error:
        errors.setdefault("grace periods", f"{type(error).__name__}: {error}"[:300])
    return found


@functools.cache
def completers():
    found = ends()
    try:
        found.update(flushed())
    except (AttributeError, LookupError, drgn.FaultError) as error:
        errors.setdefault("flushed work", f"{type(error).__name__}: {error}"[:300])
    return found


def ends():
    """Completions that a task completes when it ends, or runs another program: of vfork() and kthread_stop()."""
    found = {}
    for task in live.values():
        try:
            if address := task.vfork_done.value_():
                found[address] = task, "completed when that task ends"
        except drgn.FaultError:
            continue
    return found


def flushed():
    """Completions of flush_work(): each is in an entry that is queued behind the work (insert_wq_barrier())."""
    function = prog.symbol("wq_barrier_func").address
    seen = 0
    for _, pool in idr_for_each_entry(prog["worker_pool_idr"].address_of_(), "struct worker_pool"):
        lists = [
            (worker, worker.scheduled)
            for worker in list_for_each_entry("struct worker", pool.workers.address_of_(), "node")
        ]
        for worker, works in [*lists, (None, pool.worklist)]:
            for work in list_for_each_entry("struct work_struct", works.address_of_(), "entry"):
                seen += 1
                if seen > MOST_WORK:
                    errors.setdefault("flushed work", f"only the first {MOST_WORK} entries of the pools are read")
                    return
                if work.func.value_() != function:
                    continue
                completion = container_of(work, "struct wq_barrier", "work").done.address_of_().value_()
                if worker is not None:
                    yield completion, (worker.task, "completed when the work that this worker runs has ended")
                else:
                    cpu = pool.cpu.value_()
                    where = f"of CPU {cpu}" if cpu >= 0 else "of no CPU"
                    yield completion, (None, f"the work that is flushed waits in the pool {where}, and was not begun")


def frozen(lock):
    """In words, which frozen file system a semaphore of its writers is of; None for another semaphore."""
    blocks = list_for_each_entry("struct super_block", prog["super_blocks"].address_of_(), "s_list")
    try:
        for block in itertools.islice(blocks, MOST_FILE_SYSTEMS):
            semaphores = block.s_writers.rw_sem
            first = semaphores.address_of_().value_()
            if first <= lock.value_() < first + drgn.sizeof(semaphores) and block.s_writers.frozen:
                kind = block.s_type.name.string_().decode(errors="backslashreplace")
                return f"the file system on {text_of(block.s_id)} ({kind}) is frozen; who froze it is not recorded"
    except (AttributeError, LookupError, drgn.FaultError) as error:
        errors.setdefault("file systems", f"{type(error).__name__}: {error}"[:300])
    return None


def readers(lock, word):
    """What a semaphore records of its readers: their number, and the last that took it (kernel/locking/rwsem.c)."""
    count = (lock.count.counter.value_() >> 8) & ((1 << 54) - 1)
    said = "a reader holds it" if count == 1 else f"{count} readers hold it"
    last = word % (1 << 64) & ~7
    if last not in live:
        return f"{said}; the last that took it is no task any more, and others are not recorded"
    task = live[last]
    who = f"{text_of(task.comm)} (PID {task.pid.value_()})"
    return f"{said}; the last that took it was {who}, which may have let it go"

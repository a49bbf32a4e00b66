# ruff: noqa: F821 - drgn sets `prog`; wait-owners.py and wait-futexes.py, which come before it, have the rest
# Runs in drgn, in a case: reads which tasks are blocked, on what, and who has it. Its argument is a request in JSON,
# and so is its answer; both are described in sandbox/explain/wait_facts.py. What cannot be read is in "errors".
import base64
import itertools
import json
import os
import re
import struct
import sys

import drgn
from drgn import container_of
from drgn.helpers.linux.block import disk_name, for_each_disk
from drgn.helpers.linux.idr import idr_for_each_entry
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import compound_head
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import task_state_to_char
from drgn.helpers.linux.xarray import xa_for_each

MOST_WAITERS = 10000  # of one lock that are compared
MOST_TAGS = 16384  # of one hardware queue
MOST_BIOS = 32  # of one request
MOST_HELD = 128
TOP = 4

# Function of the frame, types of the variable that is the lock. The innermost frame that fits counts.
KINDS = [
    (re.compile(r"_*(ww_)?mutex_lock\w*"), ("mutex",)),
    (re.compile(r"percpu_rwsem_wait|_*percpu_down_(read|write)\w*"), ("percpu_rw_semaphore",)),
    (re.compile(r"rwsem_down_(read|write)_slowpath|_*down_(read|write)\w*"), ("rw_semaphore",)),
    (re.compile(r"_*down(_common|_interruptible|_killable|_timeout)?"), ("semaphore",)),
    (re.compile(r"(do_)?_*wait_for_(common|completion)\w*"), ("completion",)),
    (re.compile(r"_*rt_mutex_\w+"), ("rt_mutex_base", "rt_mutex")),
    (re.compile(r"_*(folio_wait|folio_lock|wait_on_page|lock_page)\w*"), ("folio", "page")),
    (re.compile(r"__(wait_on|lock)_buffer"), ("buffer_head",)),
    (re.compile(r"__wait_on_freeing_inode|inode_wait_for_writeback|__inode_wait_for_writeback"), ("inode",)),
]
SCHEDULER = re.compile(r"context_switch|__schedule\w*|schedule\w*|io_schedule\w*")


def plain(type_):
    while type_.kind == drgn.TypeKind.TYPEDEF:
        type_ = type_.type
    return type_


def lock_in(frame, names):
    """The variable of a frame that points to one of the structures; None where the compiler kept none."""
    for name in frame.locals():
        try:
            value = frame[name]
            type_ = plain(value.type_)
            if type_.kind != drgn.TypeKind.POINTER or value.absent_ or not value:
                continue
            target = plain(type_.type)
            if target.kind == drgn.TypeKind.STRUCT and target.tag in names:
                return value
        except Exception:  # one that drgn cannot evaluate is not the one
            continue
    return None


def noted(task):
    """(kind, lock) that the kernel notes of a blocked task (include/linux/hung_task.h); None where it does not."""
    try:
        word = task.blocker.value_()
    except AttributeError:
        return None
    kind = ("mutex", "semaphore", "rw_semaphore", "rw_semaphore")[word & 3]
    return (kind, drgn.Object(prog, f"struct {kind} *", word & ~3)) if word else None


def waits_for(task):
    """(kind, function, lock) of a blocked task; kind "" for one that waits in none of the known ways."""
    found = None
    functions = []
    for frame in prog.stack_trace(task):
        name = re.sub(r"\.(constprop|isra|part|cold)(\.\d+)*", "", frame.name or "")
        if not SCHEDULER.fullmatch(name) and frame.name:
            functions.append(frame.name)
        for pattern, names in KINDS:
            if pattern.fullmatch(name):
                if found is None or (found[2] is None and found[0] == names[0]):
                    found = names[0], found[1] if found else name, lock_in(frame, names)
                break
        if found is not None and found[2] is not None:
            break
    kind, function, lock = found or ("", "", None)
    if (note := noted(task)) is not None:
        kind, lock = note
    return kind, function, lock, functions[:TOP]


def waiters(kind, lock):
    """Tasks in a lock's own list of waiters; None where this kind or this kernel has no list that is known here."""
    try:
        if kind in {"mutex", "rw_semaphore", "semaphore"}:
            structure = {"mutex": "mutex", "rw_semaphore": "rwsem", "semaphore": "semaphore"}[kind]
            if hasattr(lock, "first_waiter"):
                entries = ring(lock.first_waiter, f"struct {structure}_waiter")
            else:
                entries = list_for_each_entry(f"struct {structure}_waiter", lock.wait_list.address_of_(), "list")
            tasks = (one.task for one in entries)
        elif kind == "completion":
            entries = list_for_each_entry("struct swait_queue", lock.wait.task_list.address_of_(), "task_list")
            tasks = (one.task for one in entries)
        elif kind == "percpu_rw_semaphore":
            entries = list_for_each_entry("struct wait_queue_entry", lock.waiters.head.address_of_(), "entry")
            # The writer that waits for readers is in `writer`, and not among them.
            tasks = (one for one in (lock.writer.task, *map(waking, entries)) if one)
        else:
            return None
        found = set()
        for number, task in enumerate(tasks):
            if number >= MOST_WAITERS:
                return None
            found.add(task.value_())
    except (AttributeError, LookupError, drgn.FaultError):
        return None
    return found


def waking(entry):
    return drgn.cast("struct task_struct *", entry.private)


def ring(first, type_):
    """Waiters that are linked to each other, without a head in the lock (v7.1)."""
    one = first
    while one:
        yield one
        one = container_of(one.list.next, type_, "list")
        if one == first:
            break


def described(task):
    try:
        names = [frame.name for frame in prog.stack_trace(task) if frame.name]
    except Exception:
        names = []
    return {
        "pid": task.pid.value_(),
        "command": text_of(task.comm),
        "state": task_state_to_char(task),
        "functions": [name for name in names if not SCHEDULER.fullmatch(name)][:TOP],
    }


def load_modules(files, given):
    """So that locks in a module have names. A file beside the dump may be of a module that was not loaded."""
    for name, content in files.items():
        try:
            module = prog.module(name)
            if module.wants_debug_file():
                handle = os.memfd_create(name)
                with open(handle, "wb", closefd=False) as file:
                    file.write(base64.b64decode(content))
                module.try_file(f"/proc/self/fd/{handle}", fd=handle)
        except LookupError as error:
            if name in given:
                errors[f"module {name}"] = str(error)


def all_tasks():
    try:
        return list(for_each_task(prog))
    except drgn.FaultError:
        # Of the session, which finds them by the kernel's list where pages of its table of PIDs are missing.
        from task_list import TaskList

        found = TaskList(prog)
        if found.lost:
            errors["more tasks"] = f"pages of {found.lost} tasks are not in the dump"
        return list(found.for_each(prog))


def main(request):
    load_modules(request["modules"], request["given"])
    answer = {"waits": [], "owners": [], "pools": [], "requests": [], "futexes": [], "errors": errors, "blocked": 0}
    lists, owners, listed = {}, {}, {}
    tasks = all_tasks()
    live.update((task.value_(), task) for task in tasks)
    for task in tasks:
        try:
            state = task_state_to_char(task)
            if state != "D":
                continue
            answer["blocked"] += 1
            if len(answer["waits"]) >= request["most"]:
                continue
            # To unwind a stack takes longest: the tasks in a lock's list wait for that lock, wherever they were called.
            kind, function, lock, functions = listed.get(task.value_()) or waits_for(task)
            one = {
                "pid": task.pid.value_(),
                "command": text_of(task.comm),
                "seconds": seconds_of(task),
                "kind": kind,
                "function": function,
                "functions": functions,
                "lock": None,
                "name": None,
                "owner": None,
                "no_owner": "",
                "listed": None,
                "word": None,
                "task": None,
            }
            if lock is not None:
                address = lock.value_()
                one["lock"], one["name"] = address, symbol_at(address)
                if address not in lists:
                    lists[address] = waiters(kind, lock), owner_of(kind, lock)
                    for waiter in lists[address][0] or ():
                        listed.setdefault(waiter, (kind, "", lock, []))
                known, (owner, why) = lists[address]
                one["listed"] = None if known is None else task.value_() in known
                one["no_owner"] = why
                if owner is not None and owner != task:
                    one["owner"] = owner.pid.value_()
                    one["word"], one["task"] = owners_word(kind, lock), owner.value_()
                    owners.setdefault(one["owner"], owner)
            answer["waits"].append(one)
        except Exception as error:
            errors.setdefault("tasks", f"{type(error).__name__}: {error}"[:300])
    try:
        answer["futexes"] = list(itertools.islice(futexes(), request["most_futexes"]))
    except Exception as error:
        errors["futexes"] = f"{type(error).__name__}: {error}"[:300]
    for one in answer["futexes"]:
        if (owner := one["owner"]) is not None:
            one["owner"] = owner.pid.value_()
            owners.setdefault(one["owner"], owner)
    blocked = {one["pid"] for one in answer["waits"]}
    answer["owners"] = [described(task) for pid, task in owners.items() if pid not in blocked]
    try:
        answer["pools"] = list(pools())
    except Exception as error:
        errors["workqueues"] = f"{type(error).__name__}: {error}"[:300]
    try:
        answer["requests"] = list(itertools.islice(requests(), request["most_requests"]))
    except Exception as error:
        errors["requests"] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(answer))


def monotonic():
    """Nanoseconds of CLOCK_MONOTONIC at the last update of the timekeeper, which is at most some ticks old."""
    try:
        keeper = prog["tk_core"].timekeeper
    except LookupError:
        # "timekeeping: Introduce struct ..._data": an array of clocks, of which the first is the kernel's own (v6.18).
        keeper = prog["timekeeper_data"][0].timekeeper
    clock = keeper.tkr_mono
    return clock.base.value_() + (clock.xtime_nsec.value_() >> clock.shift.value_())


def hardware_queues(queue):
    if hasattr(queue, "hctx_table"):
        return [drgn.cast("struct blk_mq_hw_ctx *", entry) for _, entry in xa_for_each(queue.hctx_table.address_of_())]
    # Without any for a driver that takes bios, as device mapper does.
    return [queue.queue_hw_ctx[number] for number in range(queue.nr_hw_queues.value_())] if queue.queue_hw_ctx else []


def operations():
    for name in ("enum req_op", "enum req_opf"):  # before v6.0
        try:
            return {
                value: name.removeprefix("REQ_OP_").lower().replace("_", " ")
                for name, value in prog.type(name).enumerators
            }
        except LookupError:
            continue
    return {}


def holds(request):
    """Addresses of what is waited for until a request has ended: its folios, and what its bios belong to."""
    found = set()
    bio = request.bio
    for _ in range(MOST_BIOS):
        if not bio:
            break
        found.add(bio.bi_private.value_())
        left, index = bio.bi_iter.bi_size.value_(), bio.bi_iter.bi_idx.value_()
        while left > 0 and len(found) < MOST_HELD:
            vector = bio.bi_io_vec[index]
            found.add(compound_head(vector.bv_page).value_())
            left -= max(1, vector.bv_len.value_())
            index += 1
        bio = bio.bi_next
    return sorted(found - {0})[:MOST_HELD]


def requests():
    """Requests that a driver has and has not ended: what blk_mq_rq_state() calls in flight."""
    in_flight, names, now = prog.constant("MQ_RQ_IN_FLIGHT").value_(), operations(), monotonic()
    for disk in for_each_disk(prog):
        seen = set()
        for queue in hardware_queues(disk.queue):
            tags = queue.tags
            if not tags:
                continue
            content = prog.read(tags.rqs.value_(), 8 * min(MOST_TAGS, tags.nr_tags.value_()))
            for (address,) in struct.iter_unpack("<Q", content):
                if not address or address in seen:
                    continue
                seen.add(address)
                one = drgn.Object(prog, "struct request *", address)
                # A tag may have a request of another disk, and one that has ended.
                if one.q != disk.queue or one.state.value_() != in_flight:
                    continue
                begun = one.start_time_ns.value_()
                yield {
                    "disk": disk_name(disk).decode(errors="backslashreplace"),
                    "operation": names.get(one.cmd_flags.value_() & 0xFF, "request"),
                    "sector": one.member_("__sector").value_(),
                    "bytes": one.member_("__data_len").value_(),
                    "seconds": round((now - begun) / 1e9, 3) if 0 < begun <= now else None,
                    "holds": holds(one),
                }


def nanoseconds_of_a_tick():
    # Shifted (kernel/time/jiffies.c).
    clock = prog["clocksource_jiffies"]
    return clock.mult.value_() >> clock.shift.value_()


def pools():
    """Worker pools with work that waits: since when nothing of it was begun, what runs, what waits."""
    now, tick = prog["jiffies"].value_(), nanoseconds_of_a_tick()
    for number, entry in idr_for_each_entry(prog["worker_pool_idr"].address_of_(), "struct worker_pool"):
        waiting = [
            symbol_at(work.func.value_())
            for work in list_for_each_entry("struct work_struct", entry.worklist.address_of_(), "entry")
        ]
        if not waiting:
            continue
        running = []
        for worker in list_for_each_entry("struct worker", entry.workers.address_of_(), "node"):
            if worker.current_func:
                running.append(
                    {"pid": worker.task.pid.value_(), "function": symbol_at(worker.current_func.value_()) or ""}
                )
        # last_progress_ts in newer kernels, as 7.2.
        begun = entry.last_progress_ts if hasattr(entry, "last_progress_ts") else entry.watchdog_ts
        yield {
            "pool": number,
            "cpu": entry.cpu.value_(),
            "seconds": round(((now - begun.value_()) % (1 << 64)) * tick / 1e9, 3),
            "running": running[:64],
            "waiting": [name or "" for name in waiting[:64]],
        }


main(json.loads(sys.argv[1]))

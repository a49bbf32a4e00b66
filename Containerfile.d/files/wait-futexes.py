# ruff: noqa: F821 - drgn sets `prog`; wait-owners.py, which comes before it, has the rest
# A part of explain-waits.py, which comes behind it: who waits on which futex, by the kernel's own tables of them.
import struct

import drgn
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import access_remote_vm

MOST_BUCKETS = 1 << 20
MOST_ON_FUTEXES = 50000  # tasks
MOST_NAMED = 64  # tasks of one futex
SHARED_INODE, SHARED_MM = 1, 2  # include/linux/futex.h: in the offset of a key
PAGE = 4096


def buckets(first, count):
    """Of an array of them, those with waiters."""
    type_ = prog.type("struct futex_hash_bucket")
    size, at = type_.size, drgn.offsetof(type_, "chain.node_list.next")
    if count > MOST_BUCKETS:
        raise ValueError(f"a table of {count} futexes")
    content = prog.read(first, size * count)
    for number in range(count):
        address = first + number * size
        # An empty list has its own address.
        if struct.unpack_from("<Q", content, number * size + at)[0] not in {0, address + at}:
            yield drgn.Object(prog, type_, address=address)


def tables():
    """(address, buckets) of the table of all processes, and of those that processes have of their own (v6.16)."""
    data = prog["__futex_data"]
    if hasattr(data, "hashsize"):
        yield data.queues.value_(), data.hashsize.value_()
    else:
        for queue in data.queues:
            if queue:
                yield queue.value_(), data.hashmask.value_() + 1
    seen = set()
    for task in live.values():
        mm = task.mm
        if not mm or mm.value_() in seen:
            continue
        seen.add(mm.value_())
        try:
            own = mm.futex.phash.hash if hasattr(mm, "futex") else mm.futex_phash
        except AttributeError:
            return
        if own:
            yield own.queues.address_of_().value_(), own.hash_mask.value_() + 1


def entries():
    """All waiters: struct futex_q. A page that is missing takes the rest of its table along, and is reported."""
    listed = tables()
    while True:
        try:
            first, count = next(listed)
        except StopIteration:
            return
        except drgn.FaultError as error:
            missing(error)
            return
        try:
            for bucket in buckets(first, count):
                yield from list_for_each_entry("struct futex_q", bucket.chain.node_list.address_of_(), "list.node_list")
        except drgn.FaultError as error:
            missing(error)


def missing(error):
    errors.setdefault("more futexes", f"pages of them are not in the dump ({error})"[:300])


def waiters_on_futexes():
    """Waiters by the key of their futex."""
    found = {}
    for number, entry in enumerate(entries()):
        if number >= MOST_ON_FUTEXES:
            errors["more futexes"] = f"only the first {MOST_ON_FUTEXES} tasks that wait on futexes are read"
            break
        try:
            both = entry.key.both
            key = both.ptr.value_(), both.word.value_(), both.offset.value_()
            found.setdefault(key, []).append(entry)
        except drgn.FaultError as error:
            missing(error)
    return found


def address_in(task, key):
    """The futex's address in a waiter's memory; None where that is not known."""
    _, address, offset = key
    if not offset & SHARED_INODE:
        return address + (offset & ~(SHARED_INODE | SHARED_MM))
    # The key has a page of a file: the address is an argument of the system call, where a frame has kept it.
    for frame in prog.stack_trace(task):
        for name in frame.locals():
            if name == "uaddr":
                value = frame[name]
                if not value.absent_ and value.value_() % PAGE == offset & ~(SHARED_INODE | SHARED_MM):
                    return value.value_()
    return None


def word_of(task, address):
    """(the 32 bits, why there are none)."""
    if address is None:
        return None, "its address in memory is not known"
    try:
        return struct.unpack("<I", access_remote_vm(task.mm, address, 4))[0], ""
    except drgn.FaultError as error:
        return None, f"its page is not in the dump ({error})"[:200]


def futexes():
    for key, waiting in waiters_on_futexes().items():
        try:
            tasks = [entry.task for entry in waiting if entry.task]
            if tasks:
                yield futex(key, waiting, tasks)
        except drgn.FaultError as error:
            missing(error)


def futex(key, waiting, tasks):
    first = tasks[0]
    address = address_in(first, key)
    word, why = word_of(first, address)
    state = next((entry.pi_state for entry in waiting if entry.pi_state), None)
    leader = first.group_leader
    return {
        "address": address,
        "shared": bool(key[2] & SHARED_INODE),
        "process": leader.pid.value_(),
        "command": text_of(leader.comm),
        "count": len(tasks),
        "waiters": [
            {"pid": task.pid.value_(), "command": text_of(task.comm), "seconds": seconds_of(task)}
            for task in tasks[:MOST_NAMED]
        ],
        "word": word,
        "no_word": why,
        "inherits": state is not None,
        "owner": state.owner if state is not None and state.owner else None,
    }

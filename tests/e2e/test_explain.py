"""`vmbox explain` on dumps of known cause: what it says is compared with the module's own source."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engines import EngineUnderTest

# trigger: function of the mark "CAUSE" in the source, access, texts that the sentences must have.
KNOWN: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "null-pointer": (
        "vmbox_gateway",
        "read",
        (
            "A NULL pointer was followed",
            "has the value of `route`, struct vmbox_route *",
            "is struct vmbox_route.gateway",
        ),
    ),
    "use-after-free": (
        "vmbox_measure",
        "write",
        (
            "holds POISON_FREE",
            "It is struct vmbox_packet.route, by `packet`",
            "slab cache vmbox_packet",
            "which is free",
            "SLUB's record of it: freed by PID ",
        ),
    ),
    "general-protection": ("vmbox_gateway", "read", ('holds the text "overflow"', "which is no address")),
    "bug": ("vmbox_check", None, ("A check in the kernel's own code failed: BUG() at",)),
    "stack-overflow": ("vmbox_descend", "write", ("A kernel stack overflowed", " times")),
    "list-corruption": ("__list_del_entry_valid", None, ("list_del corruption", "LIST_POISON1")),
    "soft-lockup": ("soft_lockup", None, ("a CPU did not get on",)),
    "rcu-stall": ("rcu_stall", None, ("a CPU did not get on",)),
}
EVERY = [
    # A dump that other tests want, too.
    ("6.12", "null-pointer"),
    ("7.2", "use-after-free"),
    *(("6.1", trigger) for trigger in KNOWN),
    *(
        (kernel, trigger)
        for trigger in ("soft-lockup", "rcu-stall", "list-corruption", "use-after-free")
        for kernel in ("5.10", "7.2")
        if (kernel, trigger) != ("7.2", "use-after-free")
    ),
    ("5.10", "null-pointer"),
    ("7.2", "null-pointer"),
]

# Where nothing faulted: what `waits`, or for the last three `explain`, must say.
HANGS: dict[str, tuple[str, ...]] = {
    "rwsem": (r"1 task waits for vmbox-writer \(PID \d+\), which waits for completion vmbox_never",),
    "rwsem-readers": (
        r"vmbox-writer \(PID \d+\).*waits for rwsem vmbox_table .*: 2 readers hold it; the last that took it was ",
        r"vmbox-second \(PID \d+\), which may have let it go",
    ),
    # 2,000, or fewer on a busy host, where not all are there in time.
    "convoy": (r"\d{3,4} tasks wait for vmbox-head \(PID \d+\), which waits for completion vmbox_never",),
    "workqueue": (r"A worker pool of CPU 0 began no work for \d+\.\d s; \d+ wait; it runs vmbox_spin \(PID \d+\)",),
    "blocked-io": (
        r"in flight to vdb \(\d+ read\), the oldest at sector \d+, for \d+\.\d s; \d+ tasks? waits? for them",
    ),
    "deadlock": (
        r"Deadlock: .*vmbox-first \(PID \d+\) holds vmbox_outer .*waits for mutex vmbox_inner",
        r"vmbox-second \(PID \d+\) holds vmbox_inner .*waits for mutex vmbox_outer",
    ),
    "hung-task": (
        r"touch \(PID \d+\).*waits for percpu rwsem .*: the file system on vda \(ext4\) is frozen; who froze",
    ),
    "oom": (
        r"No instruction of the kernel faulted: Kernel panic - not syncing: Out of memory",
        r"tail asked for a page, and none could be found",
        r"tail \(PID \d+\) had most memory of \d+ processes that the kernel listed: \d{5,} pages",
    ),
    "sysrq": (r"No instruction of the kernel faulted: Kernel panic - not syncing: sysrq triggered crash",),
}
# Faults and checks of other kinds: what `explain` must say. LINE is that of the mark in the source.
OTHERS: dict[str, tuple[str, ...]] = {
    "null-call": (
        r"A NULL pointer was followed: the kernel tried to run code at address 0x0\.",
        r"It was called by vmbox_poll \(\S+\.c:LINE\) < vmbox_demo_init",
    ),
    "divide-error": (r"A division by zero\.", r"In vmbox_average\+0x\w+ of module vmbox_demo .*, \S+\.c:LINE\."),
    "warning": (r"WARN\(\) at \S*vmbox_demo\.c:LINE\.", r"but panic_on_warn is set", r"In vmbox_expect\+0x"),
    "refcount": (
        r"WARN\(\) at lib/refcount\.c:\d+",
        r"the kernel said: refcount_t: addition on 0; use-after-free",
        r"called by vmbox_get \(\S+\.c:LINE\)",
    ),
    "buffer-overflow": (
        r"BUG\(\) at lib/string_helpers\.c:\d+",
        r"the kernel said: (?:detected buffer overflow in memcpy|memcpy: detected buffer overflow: 32 byte write)",
        r"called by vmbox_label(\.cold)? \(\S+\.c:LINE\)",
    ),
    "stack-protector": (r"The stack frame of vmbox_name\+0x\S+ \[vmbox_demo\] was overwritten",),
    "out-of-bounds": (
        r"tried to write address 0xAREA000, which is not mapped",
        r"In vmbox_fill\+0x\w+ of module vmbox_demo .*\.c:LINE",
    ),
    "execute-data": (
        r"tried to run code at address 0xDATA, which is mapped, but not as code",
        r"0xDATA is in an object of slab cache kmalloc-64",
    ),
    "user-copy": (r"tried to write address 0xBUFFER, which is not mapped", r"vmbox_receive \(\S+\.c:LINE\)"),
    "bad-page-state": (r"That was: BUG: Bad page state in process insmod  pfn:0*PAGE",),
    "double-fault": (r"A double fault: .*the stack pointer was 0x", r"In vmbox_switch\+0x\w+ .*\.c:LINE"),
}

HUNG = [
    *(("6.1", trigger) for trigger in HANGS if trigger != "deadlock"),
    *((kernel, trigger) for kernel in ("5.10", "7.2") for trigger in ("deadlock", "rwsem", "blocked-io")),
    ("7.2", "rwsem-readers"),
    ("7.2", "workqueue"),
]


def _line(dump: Path, mark: str) -> int:
    """Of the source that was compiled for this dump."""
    text = (dump.parent / "vmbox_demo.c").read_text(encoding="utf-8").splitlines()
    (number,) = (number for number, line in enumerate(text, 1) if f"/* CAUSE: {mark} */" in line)
    return number


@pytest.mark.parametrize(
    ("kernel", "trigger"),
    [pytest.param(*one, marks=() if one in EVERY[:2] else pytest.mark.on_demand("FIDELITY")) for one in EVERY],
)
def test_a_known_cause_is_explained(docker_engine: EngineUnderTest, dumps, kernel: str, trigger: str) -> None:
    # makedumpfile 1.7.8 leaves out the modules of 7.2.
    dump: Path = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger=trigger)
    told = docker_engine.run("explain", str(dump), "--json", "--source", str(dump.parent))
    assert told.returncode == 0, told.stderr
    # Its stack is the one that the kernel printed.
    (stack,) = json.loads(docker_engine.run("run", str(dump), "--with", "drgn", "--json", "--", "bt").stdout)[
        "verdicts"
    ]
    assert stack["agrees"], stack
    fault: dict[str, Any] = json.loads(told.stdout)
    function, access, texts = KNOWN[trigger]
    said = "\n".join(one["text"] for one in fault["sentences"])
    # List corruption is found by the kernel's own check, of which the compiler put the end into a part of its own.
    inside = trigger != "list-corruption"
    # 6.6 and newer have it without a debugging option as well: __list_del_entry_valid_or_report().
    found = str(fault["function"]).removesuffix(".cold").removesuffix("_or_report")
    assert (found, fault["module"]) == (function, "vmbox_demo" if inside else None), fault
    assert fault["access"] == access, fault
    for text in texts:
        assert text in said, said
    if not inside:
        assert (
            f"It was called by vmbox_dequeue (/tmp/module/vmbox_demo.c:{_line(dump, trigger)}) < vmbox_demo_init"
            in said
        )
    elif trigger in {"soft-lockup", "rcu-stall"}:
        # A loop that is interrupted: at its condition, an inlined function, or at its body in the next line.
        assert fault["frames"][-1]["line"] in {_line(dump, trigger) - 1, _line(dump, trigger)}, fault["frames"]
    elif trigger != "stack-overflow":  # its instruction fills the frame, in a line before the call
        marked = "null-pointer" if trigger == "general-protection" else trigger
        assert fault["frames"][-1]["line"] == _line(dump, marked), fault["frames"]
        (line,) = (one for one in fault["source"] if one["fault"])
        assert f"/* CAUSE: {marked} */" in line["text"]
    # What the sentence names answers, and shows what it says.
    commands = list(dict.fromkeys(one["command"] for one in fault["sentences"] if one["command"]))
    where = next(one["command"] for one in fault["sentences"] if one["topic"] == "where")
    answers = {}
    for command in commands:
        done = docker_engine.run("run", str(dump), "--", command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        answers[command] = done.stdout.decode(errors="replace")
    has_crash = kernel != "7.2"  # crash 9.0.2 does not know it
    stack = docker_engine.run("run", str(dump), "--with", "crash", "--", "bt") if has_crash else None
    docker_engine.run("close", str(dump))
    assert re.search(rf"\b{function}\b", answers[where]), answers[where]
    # Where crash does not answer by itself, drgn does, which has no disassembler.
    if stack is not None and where.startswith("dis "):
        _compare_with_crash(fault, answers[where], stack.stdout.decode(errors="replace"))
    if trigger == "use-after-free":
        (kmem,) = (text for command, text in answers.items() if command.startswith("kmem "))
        assert "vmbox_packet" in kmem
        if kernel == "6.1":
            _compare_object_with_crash(fault, answers)


def _compare_with_crash(fault: dict[str, Any], disassembled: str, stack: str) -> None:
    """The instruction and its registers, which were read by drgn, are what crash says."""
    (line,) = (one for one in disassembled.splitlines() if re.match(r"0x[0-9a-f]+ <", one))
    if fault["instruction"] is not None:
        mine, crashes = (" ".join(text.split()) for text in (fault["instruction"], line.partition(">:")[2]))
        # gdb has segments that are always 0, and its own words for targets of jumps.
        crashes = crashes.replace("%es:", "")
        assert mine.split("#")[0].split("<")[0].strip() == crashes.split("#")[0].split("<")[0].strip()
    registers = dict(
        re.findall(r"\b(R[A-Z0-9]{1,2}): +([0-9a-f]{16})\b", stack.partition("[exception RIP")[2].partition("\n #")[0])
    )
    for one in fault["operands"]:
        if (name := one["register"].upper()) in registers:
            assert int(one["value"], 16) == int(registers[name], 16), (one, stack)


def _compare_object_with_crash(fault: dict[str, Any], answers: dict[str, str]) -> None:
    """Slab object, its state, and the word in it. crash counts the red zone before an object as part of it."""
    said = "\n".join(one["text"] for one in fault["sentences"])
    address, mine = re.findall(
        r"(0x[0-9a-f]+) is in an object of slab cache vmbox_packet at (0x[0-9a-f]+), which is f", said
    )[0]
    kmem = answers[f"kmem {address[2:]}"]
    (bracket, crashes) = re.findall(r"FREE / \[ALLOCATED\]\n +(\[?)([0-9a-f]{16})", kmem)[0]
    assert bracket == "", "an object in use has brackets"
    assert 0 <= int(mine, 16) - int(crashes, 16) <= 16
    assert answers[f"rd {address[2:]}"].split()[1] == "6b" * 8


@pytest.mark.on_demand("FIDELITY")
@pytest.mark.parametrize(
    ("kernel", "trigger"),
    # Of 7.2 a WARN() has another form, memset() two names, and fortify_panic() a WARN() before its BUG().
    [
        *(("6.1", trigger) for trigger in OTHERS),
        *(("7.2", trigger) for trigger in ("warning", "user-copy", "buffer-overflow")),
    ],
)
def test_other_kinds_are_explained(docker_engine: EngineUnderTest, dumps, kernel: str, trigger: str) -> None:
    dump: Path = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger=trigger)
    told = docker_engine.run("explain", str(dump), "--json", "--source", str(dump.parent))
    log = docker_engine.run("dmesg", str(dump)).stdout.decode(errors="replace")
    docker_engine.run("close", str(dump))
    assert told.returncode == 0, told.stderr
    fault: dict[str, Any] = json.loads(told.stdout)
    said = "\n".join(one["text"] for one in fault["sentences"])
    # Addresses are those that the module printed.
    printed = dict(re.findall(r"vmbox_demo: (?:.*, )?(area|data|buffer|page) (?:at )?([0-9a-f]+)$", log, re.MULTILINE))
    if "area" in printed:  # the page behind it
        printed["area"] = f"{int(printed['area'], 16) + 4096:x}".removesuffix("000")
    for pattern in OTHERS[trigger]:
        filled = pattern.replace("LINE", str(_line(dump, trigger)))
        for name, value in printed.items():
            filled = filled.replace(name.upper(), value)
        assert re.search(filled, said), (filled, said)


@pytest.mark.on_demand("FIDELITY")
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.2"])
def test_kinds_of_waiting_have_their_owners_or_the_reason(docker_engine: EngineUnderTest, dumps, kernel: str) -> None:
    """The module says who waits for whom with their PIDs."""
    dump: Path = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger="waiting")
    told = docker_engine.run("waits", str(dump), "--json")
    log = docker_engine.run("dmesg", str(dump)).stdout.decode(errors="replace")
    docker_engine.run("close", str(dump))
    assert told.returncode == 0, told.stderr
    waits: dict[str, Any] = json.loads(told.stdout)
    by_pid = {one["pid"]: one for one in waits["waits"]}

    def who(words: str) -> dict[str, Any]:
        (pid,) = re.findall(rf"vmbox_demo: pid (\d+) {words}\n", log)
        return by_pid.get(int(pid)) or {"pid": int(pid)}

    writer, late = who("writes vmbox_config"), who("reads vmbox_config behind the writer")
    assert (late["kind"], late["owner"]) == ("percpu rwsem", writer["pid"]), late
    assert writer["kind"] == "percpu rwsem"
    assert writer["confirmed"] is not False
    assert writer["no_owner"].startswith("1 reader holds it"), writer
    assert (who("flushes the work")["kind"], who("flushes the work")["owner"]) == ("completion", who("works")["pid"])
    assert who("stops the thread")["owner"] == who("does not stop")["pid"]
    slots = who("waits for vmbox_slots")
    assert (slots["kind"], slots["owner"]) == ("semaphore", None)
    assert "its count is 0" in slots["no_owner"]
    if kernel == "7.2":
        assert f"(PID {who('holds vmbox_slots, waits for vmbox_never')['pid']})" in slots["no_owner"], slots
    assert who("waits for a grace period")["no_owner"] == "RCU completes it when a grace period has ended"
    assert who("works")["no_owner"] == "a completion does not record who is to complete it"
    (behind,) = (one for one in waits["roots"] if one["pid"] == who("works")["pid"])
    assert behind["behind"] == 1


@pytest.mark.on_demand("FIDELITY")
@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        *((kernel, form) for kernel in ("6.1", "6.12") for form in ("kdump", "proc-vmcore")),
        # makedumpfile 1.7.8 leaves out much of 7.2.
        *((kernel, "proc-vmcore") for kernel in ("5.10", "7.2")),
    ],
)
def test_futexes_have_their_waiters_and_owners(docker_engine: EngineUnderTest, dumps, kernel: str, form: str) -> None:
    """The program says on the console who waits where. Only one of the forms has its pages."""
    dump: Path = dumps(kernel, form=form, trigger="futex")
    told = docker_engine.run("waits", str(dump), "--json")
    docker_engine.run("close", str(dump))
    assert told.returncode == 0, told.stderr
    waits: dict[str, Any] = json.loads(told.stdout)
    # The module beside the dump was not loaded, and nobody asked for it.
    assert "module vmbox_demo" not in waits["unknown"]
    console = (dump.parent / "console.txt").read_text(encoding="utf-8")

    def who(words: str) -> tuple[set[int], int]:
        found = re.findall(rf"vmbox-demo: pid (\d+) {words}([0-9a-f]{{16}})", console)
        return {int(pid) for pid, _ in found}, int(found[0][1], 16)

    by_waiters = {frozenset(one["waiters"]): one for one in waits["futexes"]}
    for words, word in (("waits for the plain futex at ", 2), ("waits for the futex between processes at ", 7)):
        pids, address = who(words)
        assert len(pids) == 2
        one = by_waiters[frozenset(pids)]
        assert (one["waiting"], one["owner"], one["shared"]) == (2, None, "between" in words)
        if form == "kdump":
            assert one["word"] is None
            assert "not in the dump" in one["no_word"] or "not known" in one["no_word"]
        else:
            assert (one["address"], one["word"]) == (f"0x{address:x}", word)
    waiting, address = who("waits for the futex with an owner at ")
    (owner,) = who("has the futex with an owner at ")[0]
    one = by_waiters[frozenset(waiting)]
    assert (one["address"], one["owner"]) == (f"0x{address:x}", owner)
    if form != "kdump":
        assert one["word"] == 1 << 31 | owner
    (root,) = (one for one in waits["roots"] if one["pid"] == owner)
    assert root["behind"] == 1
    (parent,), (child,) = who("waits for its vfork ")[0], who("is the child of vfork ")[0]
    (parent_waits,) = (one for one in waits["waits"] if one["pid"] == parent)
    assert (parent_waits["kind"], parent_waits["owner"]) == ("completion", child)


def test_a_deadlock_is_found_with_its_owners(docker_engine: EngineUnderTest, dumps) -> None:
    """The module says in the log who holds what; the kernel's hung-task detector finds the same tasks blocked."""
    dump: Path = dumps("6.1", trigger="deadlock")
    told = docker_engine.run("waits", str(dump), "--json")
    log = docker_engine.run("dmesg", str(dump)).stdout.decode(errors="replace")
    drawn = docker_engine.run("waits", str(dump), "--dot")
    assert told.returncode == 0, told.stderr
    waits: dict[str, Any] = json.loads(told.stdout)
    # crash has the same owners: what the sentences name shows the word of each lock, and the task's address.
    shown = [one for one in waits["sentences"] if one["command"].startswith("rd ")]
    assert len(shown) == 2
    for one in shown:
        task, pid = re.findall(r"is 0x([0-9a-f]+), the task of \S+ \(PID (\d+)\)", one["text"])[0]
        asked = docker_engine.run("run", str(dump), "--with", "crash", "--", one["command"], "--", "ps", pid)
        word, crashes = re.findall(
            r"^[0-9a-f]+:  ([0-9a-f]{16})|\b(ff[0-9a-f]{14})  UN", asked.stdout.decode(), re.MULTILINE
        )
        assert int(word[0], 16) & ~7 == int(task, 16) == int(crashes[1], 16), asked.stdout
    # The panic is of the detector, a kernel thread: both debuggers have its stack as the kernel printed it.
    stacks = {
        name: json.loads(docker_engine.run("run", str(dump), "--with", name, "--json", "--", "bt").stdout)["verdicts"]
        for name in ("crash", "drgn")
    }
    docker_engine.run("close", str(dump))
    assert {name: [one["agrees"] for one in found] for name, found in stacks.items()} == {
        "crash": [True],
        "drgn": [True],
    }
    made = {int(pid): lock for pid, lock in re.findall(r"vmbox_demo: pid (\d+) holds (\w+), waits for", log)}
    (behind,) = (int(pid) for pid in re.findall(r"vmbox_demo: pid (\d+) waits for vmbox_outer", log))
    (cycle,) = waits["cycles"]
    assert sorted(cycle) == sorted(made)
    owners = {one["pid"]: one["owner"] for one in waits["waits"]}
    first, second = made
    assert (owners[first], owners[second]) == (second, first)
    assert made[owners[behind]] == "vmbox_outer"
    assert {one["pid"] for one in waits["waits"]} == {
        int(pid) for pid in re.findall(r"INFO: task \S+:(\d+) blocked", log)
    }
    assert all(one["confirmed"] for one in waits["waits"])
    assert f"t{behind} -> t{owners[behind]} [" in drawn.stdout.decode()


@pytest.mark.on_demand("FIDELITY")
@pytest.mark.parametrize(("kernel", "trigger"), HUNG)
def test_what_hangs_is_explained(docker_engine: EngineUnderTest, dumps, kernel: str, trigger: str) -> None:
    """With the test above, the corpus of docs/reliability.md."""
    dump: Path = dumps(kernel, form="proc-vmcore" if kernel == "7.2" else "kdump", trigger=trigger)
    told = docker_engine.run("explain" if trigger in {"oom", "sysrq"} else "waits", str(dump), "--json")
    log = docker_engine.run("dmesg", str(dump)).stdout.decode(errors="replace")
    disks = (
        docker_engine.run("run", str(dump), "--with", "crash", "--", "dev", "-d") if trigger == "blocked-io" else None
    )
    docker_engine.run("close", str(dump))
    assert told.returncode == 0, told.stderr
    answer: dict[str, Any] = json.loads(told.stdout)
    said = "\n".join(one["text"] for one in answer["sentences"])
    for pattern in HANGS[trigger]:
        assert re.search(pattern, said), said
    if trigger == "rwsem-readers":
        (last,) = re.findall(r"vmbox_demo: pid (\d+) reads vmbox_table as the last", log)
        assert f"vmbox-second (PID {last})" in said
    if trigger == "blocked-io":
        (device,) = answer["devices"]
        console = (dump.parent / "console.txt").read_text(encoding="utf-8")
        read = {int(pid): int(block) * 8 for pid, block in re.findall(r"pid (\d+) reads block (\d+) of vdb", console)}
        assert device["tasks"]
        assert set(device["tasks"]) <= read.keys()
        assert device["sector"] in read.values()
        assert device["requests"] == len(device["tasks"])
        assert disks is not None
        (total, reads) = re.findall(rb" vdb +[0-9a-f]{16} +(\d+) +(\d+)", disks.stdout)[0]
        assert int(total) == device["requests"] == sum(device["operations"].values())
        assert int(reads) == device["operations"]["read"]

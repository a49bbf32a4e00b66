"""Dumps read with no debuginfo, by what their kernels have of themselves: the answers are those with debuginfo."""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from e2e.conftest import Dumps, wait_for
from engines import EngineUnderTest
from relays import mirror
from sandbox.dump import identify, kdump, reader
from sandbox.dump.kdump_pages import PageIndex
from sandbox.dump.kdump_writer import write_pages
from sandbox.dump.source import FileSource
from sandbox.judge.backtrace import Backtrace, parse
from sandbox.judge.which_trace import panic_trace

SAME = (
    *("log", "ps", "ps -a", "ps -c", "ps -g", "ps -k", "ps -m", "ps -p", "ps -r", "ps -s", "ps -t", "ps -u"),
    *("ps -G init", "files", "foreach files", "mount", "net", "net -a", "mod", "vm 1", "sig 1", "set 1", "swap"),
    *("kmem -i", "kmem -s", "kmem -n", "kmem -f", "kmem -V", "runq", "runq -t", "foreach task -R comm", "ipcs", "bpf"),
    *("irq", "irq -s", "irq -a", "irq -b", "timer", "timer -r", "dev -d", "dev -i", "dev -p", "rd init_task 10"),
    *("sym init_task", "struct task_struct", "struct mm_struct", "struct page", "whatis init_task", "list -H modules"),
    *("p jiffies", "p init_task.comm", "p init_uts_ns", "p avenrun", "p saved_command_line", "p nr_threads"),
)
"""Commands whose answers are equal to the letter."""

WHOLE = [
    *(("6.1", "kdump"), ("5.10", "kdump"), ("6.12", "kdump-zstd"), ("7.2", "level-0")),
    *((f"{series}-{flavour}", "kdump") for series in ("5.10", "6.1", "6.12") for flavour in ("generic", "rt")),
    *(("7.2-generic", "proc-vmcore"), ("7.2-rt", "proc-vmcore")),
]
"""Dumps that lack no page of the kernel, as that of 7.2 by makedumpfile -d 31 does."""

_NAMES = {
    "__do_sys_vfork": "__x64_sys_vfork",
    "asm_call_on_stack": "asm_call_sysvec_on_stack",
    "asm_call_irq_on_stack": "asm_call_sysvec_on_stack",
    # drgn looks before a return address for the function: a task that never ran returns to the beginning of one.
    "ret_from_fork_asm": "ret_from_fork",
    "entry_SYSCALL_64_after_hwframe": "entry_SYSCALL_64",
    "secondary_startup_64_no_verify": "secondary_startup_64",
    "common_startup_64": "secondary_startup_64",
}
"""Symbols of one address, of which debuginfo and kallsyms each have another."""


def functions(stack: Backtrace) -> list[str]:
    return [
        _NAMES.get(name, name)
        for name in (
            re.sub(r"\.(?:cold|isra|constprop|part).*", "", one.function) for one in stack.frames if not one.inline
        )
    ]


def places(stack: Backtrace) -> list[tuple[int, str]]:
    return [(stack.pid, one.address) for one in stack.frames if not one.inline]


def run(engine: EngineUnderTest, *arguments: object, status: int = 0) -> tuple[str, str]:
    done = engine.run(*map(str, arguments))
    assert done.returncode == status, (arguments, done.stdout[-2000:], done.stderr[-4000:])
    return done.stdout.decode(errors="replace"), done.stderr.decode()


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12"])
def test_the_panicking_stack_is_the_one_that_the_kernel_logged(
    podman_rootful: EngineUnderTest, dumps: Dumps, kernel: str
) -> None:
    dump = dumps.copy_for(podman_rootful, dumps(kernel))
    answer, said = run(podman_rootful, "run", dump, "--no-debuginfo", "--", "bt")
    assert "there is no debuginfo (--no-debuginfo)" in said
    (stack,) = parse(answer)
    trace = panic_trace(run(podman_rootful, "dmesg", dump)[0].splitlines())
    assert trace is not None
    logged = [one.function for one in trace.reliable]
    # Above panic() the log has what printed it, and the stack what wrote the dump.
    panicking = [one.function for one in stack.frames]
    assert panicking[0] == "__crash_kexec"
    assert panicking[panicking.index("panic") :] == logged[logged.index("panic") :]
    assert stack.complaint is None


FRAME_POINTERS = Path(__file__).parents[1] / "fixtures" / "dumps" / "x86_64-6.1-frame-pointers"
"""An excerpt (`vmbox excerpt --no-debuginfo … -- foreach bt`) of the ELF that QEMU wrote of Debian's 6.1.192, compiled
with UNWINDER_FRAME_POINTER in place of ORC. Two processors: one in panic(), one stopped in a program.
"""


def test_a_kernel_with_frame_pointers(podman_rootful: EngineUnderTest, dumps: Dumps) -> None:
    """All stacks are whole: drgn, with debuginfo, goes on into what is no stack, and crash leaves out functions without
    a frame. All other return addresses of the 36 tasks were compared with crash's.
    """
    dump = dumps.copy_for(podman_rootful, FRAME_POINTERS)
    answer, said = run(podman_rootful, "run", dump, "--no-debuginfo", "--", "bt")
    assert "AGREES WITH: the log's call trace (10 frames)" in said
    (stack,) = parse(answer)
    # The first has no frame of its own, and is called through a pointer.
    assert [one.function for one in stack.frames][:3] == ["delay_tsc", "__const_udelay", "panic"]
    stacks = parse(run(podman_rootful, "run", dump, "--no-debuginfo", "--", "foreach bt")[0])
    podman_rootful.run("close", str(dump))
    assert len(stacks) == 36
    assert [one.complaint for one in stacks if one.complaint] == []
    assert {functions(one)[-1] for one in stacks} == {
        *("ret_from_fork", "secondary_startup_64", "entry_SYSCALL_64", "asm_sysvec_reboot"),
    }


def test_an_exception_in_the_init_function_of_a_module(podman_rootful: EngineUnderTest, dumps: Dumps) -> None:
    """Then the module's table of symbols has those of the kernel that it uses, too."""
    dump = dumps.copy_for(podman_rootful, dumps("6.12", trigger="null-pointer"))
    answer, said = run(podman_rootful, "run", dump, "--no-debuginfo", "--", "bt")
    assert "AGREES WITH: the log's call trace" in said
    assert "vmbox_gateway" in answer


@pytest.mark.on_demand("FIDELITY")
@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.12", "7.2"])
def test_the_stack_below_a_call_of_null(podman_rootful: EngineUnderTest, dumps: Dumps, kernel: str) -> None:
    """6.12's thunks, by which pointers are called, have other symbols at their addresses."""
    form = "proc-vmcore" if kernel == "7.2" else "kdump"
    dump = dumps.copy_for(podman_rootful, dumps(kernel, form=form, trigger="null-call"))
    answer, said = run(podman_rootful, "run", dump, "--no-debuginfo", "--", "bt")
    assert "AGREES WITH: the log's call trace" in said
    (stack,) = parse(answer)
    assert functions(stack)[:3] == ["0x0", "vmbox_poll", "vmbox_demo_init"]
    assert functions(stack)[-1] == "entry_SYSCALL_64"


def _kernels(cases: Sequence[tuple[str, str]]) -> list[object]:
    """The first of some cases in every run, and all when they are asked for."""
    first, *others = cases
    return [pytest.param(*first), *(pytest.param(*one, marks=pytest.mark.on_demand("FIDELITY")) for one in others)]


@pytest.mark.parametrize(("kernel", "form"), _kernels(WHOLE))
def test_answers_are_those_with_debuginfo(
    podman_rootful: EngineUnderTest, dumps: Dumps, kernel: str, form: str
) -> None:
    dump = dumps.copy_for(podman_rootful, dumps(kernel, form=form))
    asked = [word for command in (*SAME, "foreach bt") for word in ("--", command)]

    def answers(*options: str) -> dict[str, str]:
        done = podman_rootful.run("run", str(dump), "--json", *options, *asked)
        # Some kernels lack what a command needs: then it fails with debuginfo, too.
        assert done.returncode in {0, 1}, done.stderr.decode()
        return {one["command"]: one["output"] for one in map(json.loads, done.stdout.splitlines())}

    def layouts(*options: str) -> dict[str, object]:
        script = str(Path(__file__).with_name("type_layouts.py"))
        found: dict[str, object] = json.loads(
            run(podman_rootful, "run", dump, "--tool", "drgn", *options, "--", script)[0]
        )
        # 5.10 has two structs of that name, and one that nothing has all members of.
        return {name: one for name, one in found.items() if one is not None and name != "struct node"}

    without, layouts_without = answers("--no-debuginfo"), layouts("--no-debuginfo")
    # A type that only a module has, and a variable whose type nothing says.
    own, unknown = (
        podman_rootful.run("run", str(dump), "--no-debuginfo", "--", command)
        for command in ("struct virtio_blk", "p virtblk_fops")
    )
    # Else what is open goes on without, and is compared with itself.
    run(podman_rootful, "debuginfo", "fetch", dump)
    with_it, layouts_with = answers("--with", "drgn"), layouts()
    assert "(inline)" in with_it["foreach bt"]
    assert sum("drgn: crash: " not in with_it[command] for command in SAME) > 0.9 * len(SAME)
    for command in SAME:
        assert without[command] == with_it[command], command
    assert len(layouts_with) > 900
    assert {name: layouts_without.get(name) for name in layouts_with} == layouts_with
    assert b"the type of virtblk_fops is not known without debuginfo" in unknown.stdout
    assert (b"struct gendisk *disk;" in own.stdout) is (kernel[:4] != "5.10")  # its modules have no BTF
    stacks, wanted = parse(without["foreach bt"]), parse(with_it["foreach bt"])
    assert len(stacks) > 40
    assert list(map(places, stacks)) == list(map(places, wanted))
    for mine, theirs in zip(map(functions, stacks), map(functions, wanted), strict=True):
        assert mine == ["ret_from_fork" if name.startswith("0x") else name for name in theirs]


@pytest.fixture(scope="module")
def own_kernel(podman_rootful: EngineUnderTest, dumps: Dumps) -> Path:
    """A dump of a kernel whose name no archive has."""
    dump = dumps.copy_for(podman_rootful, dumps("6.1", form="elf"))
    content = dump.read_bytes()
    release = re.search(rb"OSRELEASE=(\S+)", content)
    assert release is not None
    own = release[1].replace(b"cloud", b"myown")
    dump.write_bytes(content.replace(release[1], own))
    return dump


def test_a_kernel_that_nobody_has_debuginfo_of_is_read_without(
    podman_rootful: EngineUnderTest, dumps: Dumps, own_kernel: Path, tmp_path: Path
) -> None:
    ask = partial(run, replace(podman_rootful, env={**podman_rootful.env, "VMBOX_CACHE_DIR": str(tmp_path / "cache")}))
    podman_rootful.run("close", str(own_kernel))
    answer, said = ask("run", own_kernel, "--", "bt")
    assert re.search(r"no debuginfo of kernel \S+-myown-\S+ was found: the dump is read by the BTF", said)
    assert "sysrq_handle_crash" in answer
    # Warm, each command says so, and what may help.
    for more in ((), ("--with", "drgn")):
        said = ask("run", own_kernel, *more, "--", "ps")[1]
        assert re.search(r"drgn answers: there is no debuginfo \(.*\); vmbox debuginfo fetch \S+ looks for it", said)
    # crash is not asked, and says why.
    assert "no debuginfo of kernel" in ask("run", own_kernel, "--with", "crash", "--", "bt", status=40)[1]
    made = json.loads(ask("report", own_kernel, "--json")[0])
    assert made["problem"] is None
    assert made["identity"]["no_debuginfo"].startswith("no debuginfo of kernel")
    assert made["signature"]["basis"] == "backtrace"
    # Debuginfo that has arrived in the meantime is used by the next command.
    its_own = run(podman_rootful, "debuginfo", "fetch", dumps.copy_for(podman_rootful, dumps("6.1", form="elf")))[0]
    ask("debuginfo", "add", re.findall(r"DEBUGINFO: (\S+)", its_own)[0])
    answer, said = ask("run", own_kernel, "--", "bt")
    assert "debuginfo has arrived" in said
    assert "crash answers" in said
    assert made["signature"] == json.loads(ask("report", own_kernel, "--json")[0])["signature"]


@pytest.mark.parametrize(
    "on",
    [
        "podman_rootful",
        pytest.param("docker_engine", marks=pytest.mark.on_demand("FIDELITY")),
        pytest.param("podman_rootless", marks=pytest.mark.on_demand("FIDELITY")),
    ],
)
def test_it_needs_no_network_and_nothing_in_the_cache(
    request: pytest.FixtureRequest, on: str, dumps: Dumps, own_kernel: Path
) -> None:
    engine: EngineUnderTest = request.getfixturevalue(on)
    run(engine, "image", "build", "latest")
    empty = engine.directory()
    # Engines answer on a socket of the file system.
    offline = replace(
        engine, vmbox=["unshare", "--net", *engine.vmbox], env={**engine.env, "VMBOX_CACHE_DIR": str(empty)}
    )
    dump = dumps.copy_for(engine, own_kernel)
    answer, said = run(offline, "run", dump, "--no-debuginfo", "--", "bt", "--", "ps")
    assert "there is no debuginfo (--no-debuginfo)" in said
    assert " sysrq_handle_crash at " in answer
    assert "[kthreadd]" in answer
    run(engine, "close", dump)


def test_a_kernel_without_btf_says_so(podman_rootful: EngineUnderTest, own_kernel: Path, tmp_path: Path) -> None:
    dump = own_kernel.with_name("no-btf")
    dump.write_bytes(own_kernel.read_bytes().replace(b"\x9f\xeb\x01\x00\x18\x00\x00\x00", bytes(8)))
    cold = replace(podman_rootful, env={**podman_rootful.env, "VMBOX_CACHE_DIR": str(tmp_path / "cache")})
    said = run(cold, "run", dump, "--", "bt", status=40)[1]
    assert "nor is the dump read without it: the kernel's BTF is not read" in said


def _without_pages(dump: Path, addresses: Sequence[int], to: Path) -> Path:
    """Write a kdump again, without the pages at some addresses of the kernel's image."""
    found = re.search(rb"NUMBER\(phys_base\)=(-?\d+)", dump.read_bytes())
    assert found is not None
    missing = {(address - 0xFFFFFFFF80000000 + int(found[1])) >> 12 for address in addresses}
    with FileSource(dump) as source, tempfile.TemporaryDirectory() as place:
        file, parsed = reader.parse(source, dump.name), kdump.parse(source)
        assert file is not None
        assert parsed is not None
        beginning = file.as_kdump(identify(dump))
        assert beginning is not None
        index = PageIndex(source, parsed[1])
        there = {frame for frame in range(beginning.max_mapnr) if index.position(frame) is not None}
        assert missing <= there
        pages = write_pages(beginning, file.memory(), sorted(there - missing), Path(place))
        to.write_bytes(b"".join(pages))
    return to


def test_what_lacks_pages_of_the_kernels_own_tables_says_which(
    podman_rootful: EngineUnderTest, dumps: Dumps, tmp_path: Path
) -> None:
    dump = dumps.copy_for(podman_rootful, dumps())
    asked = [word for name in ("__start_BTF", "__start_orc_unwind_ip", "modules") for word in ("--", f"sym {name}")]
    said = run(podman_rootful, "run", dump, "--no-debuginfo", *asked)[0]
    btf, orc, modules = (int(line.split()[0], 16) for line in said.splitlines())
    (names,) = re.findall(rb"SYMBOL\(kallsyms_names\)=([0-9a-f]+)", dump.read_bytes())

    def lacking(*addresses: int) -> Path:
        return _without_pages(dump, addresses, tmp_path / "vmcore")

    for at, what in ((btf + 0x200000, "BTF"), (int(names, 16) + 0x10000, "kallsyms")):
        path = lacking(at)
        said = run(podman_rootful, "run", path, "--no-debuginfo", "--", "bt", status=60)[1]
        assert f"the dump is not read without debuginfo: pages of the kernel's {what} are not in the dump: " in said
        assert f"hint: vmbox dmesg {path} prints the log; leave out --no-debuginfo" in said
        assert "sysrq triggered crash" in run(podman_rootful, "dmesg", path)[0]
    # Without stacks, all else is there.
    asked = ["--", "bt", "--", "log", "--", "ps", "--", "mod"]
    answer = run(podman_rootful, "run", lacking(orc + 0x10000), "--no-debuginfo", *asked, status=1)[0]
    assert "pages of the kernel's ORC, by which stacks are unwound, are not in the dump: " in answer
    assert " #0 " not in answer
    assert {"swapper/0", "virtio_blk"} <= set(answer.replace("[", " ").replace("]", " ").split())
    # Without modules, their names and types are not.
    answer, said = run(podman_rootful, "run", lacking(modules), "--no-debuginfo", "--", "bt")
    assert "without debuginfo: modules: could not read memory from kdump" in answer + said
    assert " sysrq_handle_crash at " in answer
    # Cut off in the middle, before the kernel's own memory, which is at the end.
    size = dump.stat().st_size // 2
    path.write_bytes(dump.read_bytes()[:size])
    said = run(podman_rootful, "run", path, "--no-debuginfo", "--", "bt", status=13)[1]
    assert f"no debugger opens a dump: cut off in the page data: {size} of" in said


@pytest.fixture
def slow_mirror() -> Iterator[tuple[str, threading.Event]]:
    """The URL of a mirror of Debian's archive on this host, and what lets its debug packages through."""
    with mirror("-dbg") as found:
        yield found.url, found.opened


def test_bt_is_answered_while_debuginfo_is_on_its_way(
    podman_rootful: EngineUnderTest, dumps: Dumps, tmp_path: Path, slow_mirror: tuple[str, threading.Event]
) -> None:
    dump = dumps.copy_for(podman_rootful, dumps("6.1"))
    url, opened = slow_mirror
    cache = tmp_path / "cache"
    own = {
        "VMBOX_CACHE_DIR": str(cache),
        "VMBOX_MIRRORS": f"http://deb.debian.org={url}",
        "VMBOX_WAIT_FOR_DEBUGINFO": "false",
    }
    ask = partial(run, replace(podman_rootful, env={**podman_rootful.env, **own}))
    # The names of images tell mirrors apart.
    ask("image", "build", "latest")
    answer, said = ask("run", dump, "--json", "--", "bt")
    on_its_way = "drgn answers: debuginfo is still on its way ("
    assert said.count(on_its_way) == 1
    first = json.loads(answer)
    assert "sysrq_handle_crash" in first["output"]
    assert first["debugger"] == "drgn"
    assert first["reason"].startswith("debuginfo is still on its way")
    wait_for(lambda: any(cache.glob("downloads/*.part")), 120)
    # Warm, the same line again; the transcript has it.
    assert ask("run", dump, "--", "ps")[1].count(on_its_way) == 1
    kept = [json.loads(line) for line in ask("log", dump, "--json")[0].splitlines()]
    assert [one["reason"][:9] for one in kept if one.get("command") == "ps"] == ["debuginfo"]
    # To close the case ends it, and leaves nothing half but the download that the next one goes on with.
    ask("close", dump)
    wait_for(lambda: not any((cache / "debuginfo").iterdir()))
    assert any(cache.glob("downloads/*.part"))
    assert on_its_way in ask("run", dump, "--", "bt")[1]
    opened.set()
    wait_for(lambda: "debuginfo has arrived" in ask("run", dump, "--", "ps")[1], 240)
    assert json.loads(ask("run", dump, "--json", "--", "bt")[0])["debugger"] == "crash"
    ask("close", dump)

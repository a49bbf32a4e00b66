"""Measures a warm crash beside crash by hand in the same container, on the same dump, in one run.

    python benchmarks/session.py [--runs N] [--flood MB] [--starts] [--shipped VMLINUX] VMCORE

The dump is opened with vmbox as it is configured (`$VMBOX_ENGINE` and so on); after that first time image and
debuginfo are cached. "one-shot" is `crash vmlinux vmcore` reading one command, in a container of the same image: on
the vmlinux of the distribution's package (`--shipped`), and on the prepared one. Without `--shipped` the first is the
prepared one with its index hidden, which has no relocations of debug sections either and so is a little faster.
Compare the ratios. The case is closed at the end.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from sandbox import api
from sandbox.case import store
from sandbox.case.places import DUMP, VMLINUX
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs, connect
from sandbox.model import Case

os.environ["VMBOX_WAIT_FOR_DEBUGINFO"] = "true"  # what is measured is not how fast debuginfo comes
VMBOX = [sys.executable, "-c", "import sys; from sandbox.__main__ import main; sys.exit(main())"]
COMMANDS, CALLERS, EACH = 1000, 8, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", type=Path)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--flood", type=int, default=500, metavar="MB")
    parser.add_argument("--starts", action="store_true", help="only cold and warm runs, beside crash by hand")
    parser.add_argument("--shipped", type=Path, metavar="VMLINUX")
    given = parser.parse_args()
    vmcore: Path = given.vmcore.resolve()

    vmbox("run", vmcore, "--", "bt")
    colds = []
    for _ in range(3):
        vmbox("close", vmcore)
        colds.append(seconds(lambda: vmbox("run", vmcore, "--", "bt")))
    cold = statistics.median(colds)
    case = store.find(vmcore)
    assert case is not None
    try:
        engine = connect(case.endpoint)
        with (
            tempfile.TemporaryDirectory() as directory,
            shipped(engine, case, Path(directory), given.shipped) as container,
        ):
            as_shipped = statistics.median(
                seconds(lambda: crash(engine, container, "bt", vmlinux="/shipped/vmlinux")) for _ in range(3)
            )
        prepared = statistics.median(seconds(lambda: crash(engine, case.container, "bt")) for _ in range(3))
        print(f"{case.release}, {case.engine}, crash of {case.profile}")
        print(f"one-shot bt, vmlinux as shipped     {as_shipped:8.3f} s")
        print(f"one-shot bt, vmlinux prepared       {prepared:8.3f} s")
        print(f"cold vmbox run -- bt                {cold:8.3f} s  {cold / as_shipped:.2f} of as shipped (asked: 0.5)")
        warm = statistics.median(seconds(lambda: vmbox("run", vmcore, "--", "bt")) for _ in range(given.runs))
        bare = statistics.median(
            seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5)
        )
        print(f"warm vmbox run -- bt, whole process {warm:8.3f} s  {as_shipped / warm:.0f} times (asked: 0.15 s, 40)")
        print(f"    of which python, nothing        {bare:8.3f} s")
        inside(vmcore, given.runs)
        if given.starts:
            engine.close()
            return
        many(engine, case, vmcore)
        callers(vmcore)
        for options in ((), ("--json",), ("--no-transcript",)):
            flood(vmcore, given.flood, options)
        engine.close()
    finally:
        vmbox("close", vmcore)


def inside(vmcore: Path, runs: int) -> None:
    """One command in an open session, as a script uses it."""
    with api.open(vmcore).session() as session:
        for command in ("p 1", "bt", "sys", "ps"):
            took = statistics.median(seconds(partial(session.run, command, lambda _: None)) for _ in range(runs * 3))
            print(f"in an open session, {command:<16}{took * 1000:8.2f} ms")


def many(engine: Engine, case: Case, vmcore: Path) -> None:
    """The same file of commands, given to vmbox and to crash; crash's own start is taken off."""
    lines = "".join(
        f"{('p 1', 'bt', 'sys', 'task -R pid', 'rd jiffies_64')[number % 5]}\n" for number in range(COMMANDS)
    )
    with tempfile.NamedTemporaryFile("w", suffix=".crash") as file:
        file.write(lines)
        file.flush()
        through = statistics.median(seconds(lambda: vmbox("run", vmcore, "-i", file.name)) for _ in range(3))
    start = statistics.median(seconds(lambda: crash(engine, case.container, "quit")) for _ in range(3))
    alone = statistics.median(seconds(lambda: crash(engine, case.container, lines)) for _ in range(3)) - start
    print(
        f"{COMMANDS} commands: vmbox run -i {through:.3f} s, crash {alone:.3f} s: {through / alone:.2f} times, "
        f"{(through - alone) / COMMANDS * 1000:.2f} ms a command (asked: 1.10, 3 ms)"
    )


def callers(vmcore: Path) -> None:
    began = time.monotonic()
    processes = []
    for caller in range(CALLERS):
        words = " -- ".join(f"p {caller + 1}{number:03}" for number in range(EACH)).split()
        processes.append(subprocess.Popen([*VMBOX, "run", str(vmcore), "-q", "--", *words], stdout=subprocess.PIPE))
    mixed = 0
    for caller, process in enumerate(processes):
        answers = re.sub(rb"\$\d+ = ", b"", process.communicate()[0])
        mixed += answers != b"".join(b"%d%03d\n" % (caller + 1, number) for number in range(EACH))
    took = time.monotonic() - began
    print(f"{CALLERS} callers, {EACH} commands each: {took:.2f} s, {mixed} with a mixed answer (asked: 0)")


def flood(vmcore: Path, megabytes: int, options: tuple[str, ...]) -> None:
    """Measures time and the peak of vmbox's memory for much output."""
    line = "ffffea0000000000 0 ffff888000000000 100 1 0xfffffc0001000 reserved"
    command = f"!yes '{line}' | head -c {megabytes * 1000000}"
    began = time.monotonic()
    with subprocess.Popen([*VMBOX, "run", str(vmcore), *options, "--", command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        received = peak = 0
        while data := process.stdout.read(1 << 20):
            received += len(data)
            # Of the process itself: wait4 also counts the memory of the process that started it.
            found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, int(found[1]) / 1024 if found else 0)
    took = time.monotonic() - began
    print(
        f"{received / 1e6:.0f} MB of output {' '.join(options):<16}{took:7.2f} s, {received / 1e6 / took:.0f} MB/s, "
        f"peak {peak:.0f} MB (asked: 80)"
    )


def crash(engine: Engine, container: str, lines: str, *, vmlinux: str = VMLINUX) -> None:
    # In a shell that lives as long as crash: crash ends with its parent, see Containerfile.d/files/shell.
    argv = ["sh", "-c", f"crash -s --no_crashrc --no_scroll {vmlinux} {DUMP}; exit $?"]
    with engine.exec(container, argv, stdin=True) as process:
        process.write(f"{lines}\nquit\n".encode())
        said = deque(iter(process.read, b""), maxlen=1)
        assert process.exit_code() == 0, b"".join(said).decode(errors="replace") or "crash by hand did not answer"


@contextmanager
def shipped(engine: Engine, case: Case, directory: Path, vmlinux: Path | None = None) -> Iterator[str]:
    """Yields a container of the same image with the same dump, and a vmlinux that was not prepared."""
    if vmlinux is None:
        vmlinux = directory / "vmlinux"
        vmlinux.write_bytes(case.vmlinux.read_bytes().replace(b"\0.gdb_index\0", b"\0.xdb_index\0"))
        directory.chmod(0o755)
    spec = ContainerSpec(
        image=case.image,
        argv=["sleep", "infinity"],
        binds=[Bind(source=case.dump, target=DUMP), Bind(source=vmlinux.resolve(), target="/shipped/vmlinux")],
        env={"HOME": "/tmp", "TMPDIR": "/tmp"},
        tmpfs=[Tmpfs(target="/tmp", size=1 << 30)],
        workdir="/tmp",
    )
    container = engine.start(spec)
    try:
        yield container.id
    finally:
        engine.remove(container.id)


def vmbox(*arguments: object) -> None:
    done = subprocess.run([*VMBOX, *map(str, arguments)], capture_output=True, check=False)
    assert done.returncode in {0, 1}, done.stderr.decode()


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


if __name__ == "__main__":
    main()

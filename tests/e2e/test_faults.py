"""Whatever breaks in the middle, the next `vmbox run` works and `vmbox doctor --leaks` finds nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import engines
from e2e.conftest import BY_DRGN, Dumps
from engines import PATH, EngineUnderTest
from sandbox.engine import connect, labels
from sandbox.engine.service import Service, reachable
from sandbox.errors import EngineError

_tidied: set[str] = set()


on_demand = pytest.mark.on_demand


@pytest.fixture(
    scope="session",
    params=["podman_rootless", *(pytest.param(name, marks=on_demand) for name in ("docker_engine", "podman_rootful"))],
)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Rootless Podman, whose process has time; each of the three with VMBOX_TEST_FAULTS=all."""
    return request.getfixturevalue(request.param)


ENDS = ("removed", "killed", "crash killed")
BY_CRASH = ("--with", "crash", "--", "bt")


def works(
    engine: EngineUnderTest, dump: Path, asked: Sequence[str] = BY_DRGN, *, env: dict[str, str] | None = None
) -> bytes:
    """An answer, and nothing left behind. Returns what was said on the way."""
    if engine.name not in _tidied:
        # Storage and cache outlive a run of the tests, and one that was killed.
        _tidied.add(engine.name)
        _vmbox(engine, "doctor", "--leaks", "--remove", "--engine", engine.url)
    done = _vmbox(engine, "run", str(dump), *asked, env=env)
    assert done.returncode == 0, done.stderr
    assert b"sysrq_handle_crash" in done.stdout, done.stderr
    leaks = _vmbox(engine, "doctor", "--leaks", "--engine", (env or engine.env)["VMBOX_ENGINE"], env=env)
    assert leaks.returncode == 0, leaks.stdout
    return done.stderr


def _vmbox(
    engine: EngineUnderTest, *args: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [*engine.vmbox, *args]
    return subprocess.run(command, env=env or dict(engine.env), capture_output=True, check=False, timeout=500)


def _case(engine: EngineUnderTest, dump: Path) -> dict[str, str]:
    (case,) = [one for one in json.loads(engine.run("list", "--json").stdout) if one["dump"] == str(dump)]
    return dict(case)


def _vmlinux(engine: EngineUnderTest, dump: Path) -> Path:
    """The cached vmlinux of a dump, as something a user may give."""
    works(engine, dump)
    found = Path(_case(engine, dump)["vmlinux"])
    engine.run("close", "--all")
    return found


def _of_ones_own(engine: EngineUnderTest, mark: str) -> dict[str, str]:
    """The settings of a user whose profile makes another image, so that there is something to build."""
    config = engine.directory()
    (config / "images").mkdir()
    text = (engines.CHECKOUT / "images" / "latest.toml").read_text()
    assert "deb http" in text
    (config / "images" / "latest.toml").write_text(text.replace("deb http", f"deb [{mark}] http", 1))
    return {**engine.env, "VMBOX_CONFIG_DIR": str(config)}


@pytest.fixture
def apart(engine: EngineUnderTest) -> dict[str, str]:
    """The environment of a user who has never run vmbox; image and bases are the engine's."""
    place = engine.directory()
    return {**engine.env, "VMBOX_CACHE_DIR": str(place / "cache"), "VMBOX_RUNTIME_DIR": str(place / "run")}


def test_killed_at_each_stage(engine: EngineUnderTest, own_dump: Path, apart: dict[str, str]) -> None:
    """kill -9 whenever a new line of progress appears, and at moments in between, until nothing new appears."""
    vmlinux = _vmlinux(engine, own_dump)
    command = [*engine.vmbox, "run", str(own_dump), "--debuginfo", str(vmlinux), "--", "bt"]
    stages: list[str] = []
    for delay in (0.05, 0.2, 0.5, 1.0):
        with subprocess.Popen(command, env=apart, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as early:
            time.sleep(delay)
            early.kill()
    # On a fast machine the last of them had opened the case already.
    subprocess.run([*engine.vmbox, "close", "--all"], env=apart, stderr=subprocess.DEVNULL, check=True)
    for _ in range(20):
        with subprocess.Popen(command, env=apart, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                stage = line.decode().strip()
                if stage.endswith("…") and stage not in stages:
                    stages.append(stage)
                    time.sleep(0.3)
                    process.kill()
                    break
            else:
                assert process.wait() == 0
                break
    assert any("Starting the case container" in stage for stage in stages), stages
    assert any("Starting crash" in stage for stage in stages), stages
    works(engine, own_dump, BY_CRASH, env=apart)
    # Once more, while crash is answering: much, and a little for ever.
    for endless in ("foreach bt", "!while sleep 0.2; do echo on; done"):
        with subprocess.Popen(
            [*engine.vmbox, "run", str(own_dump), "--", endless], env=apart, stdout=subprocess.PIPE
        ) as busy:
            assert busy.stdout is not None
            busy.stdout.readline()
            busy.kill()
        works(engine, own_dump, BY_CRASH, env=apart)
    _vmbox(engine, "close", "--all", env=apart)
    assert engine.engine.containers({labels.CASE: ""}) == []


@on_demand
def test_killed_while_an_image_is_built(docker_engine: EngineUnderTest, dumps: Dumps) -> None:
    """A profile of the user's own makes another image, so that there is something to build."""
    env = _of_ones_own(docker_engine, "check-date=yes")
    dump = dumps.copy_for(docker_engine, dumps())
    before = {image.id for image in docker_engine.engine.images({})}
    running = {container.id for container in docker_engine.engine.containers({})}
    with subprocess.Popen(
        [*docker_engine.vmbox, "run", str(dump), "--", "bt"], env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"Building image" in line:
                time.sleep(3)
                break
        else:
            raise AssertionError("nothing was built")
        process.kill()
    _wait(lambda: {container.id for container in docker_engine.engine.containers({})} <= running, 60)
    made = {image.id for image in docker_engine.engine.images({})} - before
    assert not [one for one in made if (found := docker_engine.engine.image(one)) and found.tags]
    # The daemon keeps the steps that had ended, for the next build of this image.
    left = _vmbox(docker_engine, "doctor", "--leaks", "--remove", "--engine", docker_engine.url)
    kinds = {line.split("  ")[0].strip() for line in left.stdout.decode().splitlines()[1:]}
    assert kinds <= {"half image"}, left.stdout
    works(docker_engine, dump)
    docker_engine.run("close", "--all")


@pytest.mark.parametrize("how", ["stopped", *(pytest.param(how, marks=on_demand) for how in ENDS)])
def test_container_ended_from_outside(engine: EngineUnderTest, own_dump: Path, how: str) -> None:
    asked = BY_CRASH if how == "crash killed" else BY_DRGN
    works(engine, own_dump, asked)
    container = _case(engine, own_dump)["container"]
    match how:
        case "removed":
            engine.engine.remove(container)
        case "killed":
            engine.signal(container, "KILL")
        case "stopped":
            engine.signal(container, "TERM")
        case _:
            engine.run("run", str(own_dump), "--", "!kill -9 $PPID")
    works(engine, own_dump, asked)


@on_demand
def test_drgn_answers_where_crash_is_killed_as_it_starts(engine: EngineUnderTest, own_dump: Path) -> None:
    """By the kernel, for want of memory: crash needs 150 to 200 MB of this dump, drgn 70. With 50 both are killed."""
    answers = {}
    for limit in ("50MB", "110MB"):
        env = {**engine.env, "VMBOX_MEMORY": limit}
        answers[limit] = _vmbox(engine, "run", str(own_dump), "--", "bt", env=env)
        engine.run("close", "--all")
    assert b"sysrq_handle_crash" in answers["110MB"].stdout, answers["110MB"].stderr
    for said in (b"drgn answers: crash was killed while it started", b"AGREES WITH: the log's call trace"):
        assert said in answers["110MB"].stderr
    assert answers["50MB"].returncode == 61, answers["50MB"].stderr
    assert answers["50MB"].stdout == b""
    assert b"memory=16G" in answers["50MB"].stderr


def test_runtime_directory_wiped(engine: EngineUnderTest, own_dump: Path) -> None:
    works(engine, own_dump)
    runtime = Path(engine.env["VMBOX_RUNTIME_DIR"])
    for entry in runtime.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    lost = _vmbox(engine, "doctor", "--leaks", "--engine", engine.url)
    assert lost.returncode == 1
    assert b"its case is not open" in lost.stdout
    works(engine, own_dump)
    # And without another run of that dump, by its own hand.
    shutil.rmtree(runtime / "cases")
    assert _vmbox(engine, "doctor", "--leaks", "--remove", "--engine", engine.url).returncode == 0
    assert engine.engine.containers({labels.CASE: ""}) == []


def test_two_versions_at_once(engine: EngineUnderTest, own_dump: Path) -> None:
    """A case of a version that describes its cases otherwise is opened anew, and neither stands in the other's way."""
    works(engine, own_dump)
    place = Path(_case(engine, own_dump)["directory"]) / "case.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "of_the_future": 1}))
    works(engine, own_dump)


def test_dump_removed_or_cut_while_open(vmbox, engine: EngineUnderTest, dumps: Dumps) -> None:
    vmbox("close", "--all")
    dump = dumps.copy_for(engine, dumps())
    works(engine, dump)
    os.truncate(dump, dump.stat().st_size // 2)
    cut = engine.run("run", str(dump), *BY_DRGN)
    assert cut.returncode in {0, 1, 13}
    assert b"incomplete" in cut.stderr
    assert b"Traceback" not in cut.stderr
    dump.unlink()
    gone = vmbox("run", dump, "--", "bt", status=10)
    assert b"there is no file" in gone.stderr
    vmbox("close", "--all")
    assert engine.engine.containers({labels.CASE: ""}) == []


def test_cache_is_full(podman_rootful: EngineUnderTest, dumps: Dumps, tmp_path: Path) -> None:
    dump = dumps.copy_for(podman_rootful, dumps())
    vmlinux = _vmlinux(podman_rootful, dump)
    with _mounted(tmp_path / "cache", "-t", "tmpfs", "-o", f"size=80m,uid={os.getuid()}", "tmpfs") as cache:
        env = {**podman_rootful.env, "VMBOX_CACHE_DIR": str(cache)}
        full = _vmbox(podman_rootful, "run", str(dump), "--debuginfo", str(vmlinux), "--", "bt", env=env)
        assert full.returncode == 50, full.stderr
        assert b"no space" in full.stderr
        assert b"VMBOX_CACHE_DIR" in full.stderr
        assert list(cache.rglob("*vmlinux*")) == []
    works(podman_rootful, dump)


OUTPUTS = [
    ["report", "DUMP", "-o", "r.html"],
    ["report", "DUMP", "--json", "-o", "r.json"],
    ["report", "DUMP", "-o", "-"],
    ["excerpt", "DUMP", "-o", "excerpt"],
    ["run", "DUMP", "--with", "drgn", "-o", "answers", "--", "log > log"],
    ["triage", "DUMP", "-o", "triaged"],
    ["image", "build", "latest", "--sbom", "bill.json"],
    ["image", "save", "latest", "-o", "image.tar"],
    ["dmesg", "DUMP"],
    ["decode", "DUMP"],
]


def test_where_outputs_go_is_full(podman_rootful: EngineUnderTest, dumps: Dumps, tmp_path: Path) -> None:
    dump = dumps.copy_for(podman_rootful, dumps())
    works(podman_rootful, dump)
    wrong = []
    with _mounted(tmp_path / "full", "-t", "tmpfs", "-o", f"size=64k,uid={os.getuid()}", "tmpfs") as full:
        (full / "more").write_bytes(bytes(60_000))
        for words in OUTPUTS:
            command = [*podman_rootful.vmbox, *(str(dump) if word == "DUMP" else word for word in words)]
            with (full / "standard output").open("wb") as out:
                done = subprocess.run(
                    command, cwd=full, env=dict(podman_rootful.env), stdout=out, stderr=subprocess.PIPE, check=False
                )
            if done.returncode != 50 or b"no space" not in done.stderr:
                wrong.append((words, done.returncode, done.stderr[-300:]))
            # Nothing half done is left, except directories and what standard output took.
            left = {one.name for one in full.iterdir() if one.is_file()} - {"more", "standard output"}
            assert left == set(), words
    assert wrong == []


def test_cache_is_read_only(podman_rootful: EngineUnderTest, dumps: Dumps, tmp_path: Path) -> None:
    """What is in it is used; what would have to be put there is refused in a line."""
    dump = dumps.copy_for(podman_rootful, dumps())
    vmlinux = _vmlinux(podman_rootful, dump)
    with _mounted(tmp_path / "cache", "--bind", podman_rootful.env["VMBOX_CACHE_DIR"], read_only=True) as cache:
        works(podman_rootful, dump, env={**podman_rootful.env, "VMBOX_CACHE_DIR": str(cache)})
        podman_rootful.run("close", "--all")
    with _mounted(tmp_path / "empty", "-t", "tmpfs", "-o", "ro", "tmpfs") as cache:
        env = {**podman_rootful.env, "VMBOX_CACHE_DIR": str(cache)}
        refused = _vmbox(podman_rootful, "run", str(dump), "--debuginfo", str(vmlinux), "--", "bt", env=env)
        assert refused.returncode == 70, refused.stderr
        assert b"Read-only file system" in refused.stderr
        assert b"VMBOX_CACHE_DIR" in refused.stderr


@pytest.mark.parametrize("years", [2, pytest.param(-2, marks=on_demand)])
def test_clock_jumps(podman_rootful: EngineUnderTest, dumps: Dumps, years: int) -> None:
    """A fake: the clock of a machine that others use cannot be set, so Python's is."""
    dump = dumps.copy_for(podman_rootful, dumps())
    works(podman_rootful, dump)
    script = (
        f"import sys, time; real = time.time; time.time = lambda: real() + {years} * 366 * 86400;"
        "from sandbox.__main__ import main; sys.exit(main())"
    )
    for command in (["run", str(dump), *BY_DRGN], ["close", "--all"], ["run", str(dump), *BY_DRGN]):
        done = subprocess.run(
            [sys.executable, "-c", script, *command], env=dict(podman_rootful.env), capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    works(podman_rootful, dump)
    podman_rootful.run("close", "--all")


class Daemon:
    """A dockerd that may be killed, with one image; what it keeps survives."""

    def __init__(self, base: EngineUnderTest) -> None:
        self.run, self.data = base.directory(), base.directory()
        self.socket = self.run / "docker.sock"
        self.env = {
            **base.env,
            "VMBOX_ENGINE": f"unix://{self.socket}",
            "VMBOX_RUNTIME_DIR": str(self.run / "r"),
        }
        self._service: Service | None = None

    def start(self) -> None:
        argv = [
            str(shutil.which("dockerd", path=PATH)),
            "--host",
            f"unix://{self.socket}",
            "--data-root",
            str(self.data),
        ]
        argv += ["--exec-root", str(self.run / "exec"), "--pidfile", str(self.run / "pid"), "--group", str(os.getgid())]
        argv += ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
        # After a kill it finds its containerd's things in disorder, and may give up or take its time.
        for _ in range(3):
            self.end()
            with contextlib.suppress(EngineError):
                self._service = Service(argv, self.socket, env={"PATH": PATH}, prefix=engines._as_root())
                self._service.wait_until_up()
                connect(self.env["VMBOX_ENGINE"]).close()
                return
        raise AssertionError("dockerd does not start again")

    def kill(self, how: signal.Signals) -> None:
        pid = (self.run / "pid").read_text().strip()
        subprocess.run([*engines._sudo(), "kill", f"-{how.value}", pid], check=True)
        _wait(lambda: not reachable(self.socket), 30)

    def end(self) -> None:
        if self._service is not None:
            self._service.close()
            self._service = None
        (self.run / "pid").unlink(missing_ok=True)

    def again(self) -> None:
        self.start()


@pytest.fixture
def daemon(docker_engine: EngineUnderTest, dumps: Dumps) -> Iterator[Daemon]:
    dump = dumps.copy_for(docker_engine, dumps())
    works(docker_engine, dump)
    image = _case(docker_engine, dump)["image"]
    docker_engine.run("close", "--all")
    mortal = Daemon(docker_engine)
    try:
        mortal.start()
        archive = mortal.run / "image.tar"
        archive.write_bytes(b"".join(docker_engine.engine.save(image)))
        with contextlib.closing(connect(mortal.env["VMBOX_ENGINE"])) as engine:
            engine.load(archive)
        yield mortal
    finally:
        mortal.end()
        engines._unmount_below(mortal.run, mortal.data)


def test_engine_killed(docker_engine: EngineUnderTest, daemon: Daemon, dumps: Dumps) -> None:
    """While a case is open: a line, and the next run works when the engine does."""
    dump = dumps.copy_for(docker_engine, dumps())
    works(docker_engine, dump, env=daemon.env)
    daemon.kill(signal.SIGKILL)
    down = _vmbox(docker_engine, "run", str(dump), "--once", "--", "p 1", env=daemon.env)
    assert down.returncode == 20, down.stderr
    daemon.again()
    works(docker_engine, dump, env=daemon.env)
    _vmbox(docker_engine, "close", "--all", env=daemon.env)


@on_demand
def test_engine_stopped_and_killed_at_each_stage(docker_engine: EngineUnderTest, daemon: Daemon, dumps: Dumps) -> None:
    """And at each stage of an opening."""
    dump = dumps.copy_for(docker_engine, dumps())
    for how in (signal.SIGTERM, signal.SIGKILL):
        works(docker_engine, dump, env=daemon.env)
        daemon.kill(how)
        down = _vmbox(docker_engine, "run", str(dump), "--once", "--", "p 1", env=daemon.env)
        assert down.returncode == 20, down.stderr
        daemon.again()
    for stage in ("Starting the case container", "Starting crash"):
        works(docker_engine, dump, env=daemon.env)
        _vmbox(docker_engine, "close", "--all", env=daemon.env)
        command = [*docker_engine.vmbox, "run", str(dump), "--", "p 1+1"]
        with subprocess.Popen(command, env=daemon.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            said = b""
            for line in process.stderr:
                said += line
                if line.decode().startswith(stage):
                    daemon.kill(signal.SIGKILL)
                    break
            output, rest = process.communicate(timeout=120)
        said += rest
        # Once its FIFOs are there, a case needs no engine.
        assert process.returncode in {20, 22, 60, 61} or output.endswith(b"= 2\n"), said
        assert b"Traceback" not in said
        assert b"internal error" not in said
        daemon.again()
    works(docker_engine, dump, env=daemon.env)
    _vmbox(docker_engine, "close", "--all", env=daemon.env)
    with contextlib.closing(connect(daemon.env["VMBOX_ENGINE"])) as engine:
        _wait(lambda: engine.containers({labels.CASE: ""}) == [], 20)


@pytest.mark.parametrize("build", [False, pytest.param(True, marks=on_demand)])
def test_eight_open_the_same_new_dump_at_once(engine: EngineUnderTest, dumps: Dumps, *, build: bool) -> None:
    """One build, one download, one preparation, one case, eight answers; and another dump of the kernel meanwhile."""
    dump, other = (dumps.copy_for(engine, dumps()) for _ in range(2))
    place = engine.directory()
    env = _of_ones_own(engine, "lang=none") if build else dict(engine.env)
    env |= {"VMBOX_CACHE_DIR": str(place / "cache"), "VMBOX_RUNTIME_DIR": str(place / "run")}
    done: list[subprocess.CompletedProcess[bytes]] = []

    def one(number: int) -> None:
        done.append(_vmbox(engine, "run", str(other if number == 8 else dump), *BY_DRGN, env=env))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0] * 9, [one.stderr for one in done]
    assert len({one.stdout for one in done}) == 1
    assert b"sysrq_handle_crash" in done[0].stdout
    said = b"".join(one.stderr for one in done).decode()
    lines = said.splitlines()
    times = {
        "Building image latest": int(build),
        "Downloading ": 1,
        "Starting the case container": 2,
    }
    for step, number in times.items():
        assert len([line for line in lines if line.startswith(step) and line.endswith("…")]) == number, said
    image = json.loads(_vmbox(engine, "list", "--json", env=env).stdout)[0]["image"]
    works(engine, dump, env=env)
    _vmbox(engine, "close", "--all", env=env)
    if build:
        engine.engine.remove_image(image)


@contextlib.contextmanager
def _mounted(target: Path, *arguments: str, read_only: bool = False) -> Iterator[Path]:
    target.mkdir()
    subprocess.run([*engines._sudo(), "mount", *arguments, str(target)], check=True)
    if read_only:
        subprocess.run([*engines._sudo(), "mount", "-o", "remount,bind,ro", str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run([*engines._sudo(), "umount", "--lazy", str(target)], check=True)


def _wait(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)

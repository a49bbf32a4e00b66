"""Real engines for the tests: Docker, rootful Podman, rootless Podman. Each is started here unless a dockerd answers.

Storage is below `cache_root()` and is kept between runs; sockets and run-time state are not. The services are
started by `sandbox.engine.service`, so they end with pytest in whatever way that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import leftovers
from sandbox.engine import Engine, EngineInfo, connect
from sandbox.engine.podman_config import containers_conf
from sandbox.engine.service import Service, reachable

CHECKOUT = Path(__file__).resolve().parent.parent
USER = "vmbox-test"
"""Runs rootless Podman when the tests themselves run as root."""
_LOG = 4096
"""Bytes of an engine's log that a failed test shows."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


INFO = EngineInfo(
    name="docker",
    version="1",
    endpoint="unix:///x",
    rootless=False,
    arch="x86_64",
    limits=True,
    local=True,
    memory=1 << 34,
    cpus=2,
)
"""Information about an engine, for tests that start none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnderTest:
    name: str
    """docker, podman-rootful or podman-rootless."""
    url: str
    engine: Engine
    env: Mapping[str, str]
    """The complete environment of a vmbox subprocess, including VMBOX_ENGINE and the VMBOX_*_DIR."""
    vmbox: Sequence[str]
    """The vmbox command as the engine's user: append arguments."""
    uid: int
    gid: int
    """uid and gid of "the caller" of this engine."""
    base: Path
    service: Service | None = None
    """What was started for it; None where a dockerd was there."""
    _fresh: list[int] = field(default_factory=list)

    def directory(self) -> Path:
        """Make a directory of the engine's user, with parents that the user can pass. It is removed after the run."""
        self._fresh.append(0)
        path = self.base / f"d{len(self._fresh)}"
        path.mkdir(mode=0o755)
        os.chown(path, self.uid, self.gid)
        return path

    def log(self) -> str:
        """The end of what the engine has printed."""
        if self.service is None:
            return ""
        # Without seeking: the service writes at the place that a seek would move.
        file = self.service._log.fileno()
        return os.pread(file, _LOG, max(0, os.fstat(file).st_size - _LOG)).decode(errors="replace")

    def signal(self, container: str, name: str) -> None:
        """Send e.g. "KILL" to the container's PID 1, without vmbox."""
        from sandbox.engine.docker import DockerEngine
        from sandbox.engine.podman import PodmanEngine

        if isinstance(self.engine, PodmanEngine):
            self.engine._call("POST", f"/containers/{container}/kill", params={"signal": f"SIG{name}"}).close()
        else:
            assert isinstance(self.engine, DockerEngine)
            self.engine._api.kill(container, f"SIG{name}")

    def run(self, *args: str, **kwargs: object) -> subprocess.CompletedProcess[bytes]:
        """Run `vmbox ARGS`, and capture its output."""
        options = {"capture_output": True, "timeout": 600, "stdin": subprocess.DEVNULL, **kwargs}
        return subprocess.run([*self.vmbox, *args], env=dict(self.env), check=False, **options)  # type: ignore[call-overload,no-any-return]


def cache_root() -> Path:
    """$VMBOX_TEST_CACHE, else `.cache/` in the checkout when the test user can reach it, else a place in /var/tmp."""
    if given := os.environ.get("VMBOX_TEST_CACHE"):
        root = Path(given).absolute()
    elif all(parent.stat().st_mode & 0o001 for parent in (CHECKOUT, *CHECKOUT.parents)):
        root = CHECKOUT / ".cache" / "test"
    else:
        root = Path(f"/var/tmp/vmbox-test-{os.getuid()}")
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    return root


@contextlib.contextmanager
def _storage(name: str) -> Iterator[Path]:
    """The first directory `name`, `name`-2, … that no other run of the tests uses."""
    for number in range(1, 10):
        path = cache_root() / (name if number == 1 else f"{name}-{number}")
        with path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path.mkdir(mode=0o755, exist_ok=True)
            yield path
            return
    raise FileExistsError(f"{cache_root() / name} is in use many times over")


def docker(*more: str) -> Iterator[EngineUnderTest]:
    """One of its own, with `more` as options of the daemon, where there are any."""
    for url in () if more else (os.environ.get("DOCKER_HOST", ""), "unix:///run/docker.sock"):
        if url.startswith("unix://") and reachable(Path(url.removeprefix("unix://"))):
            with _base("docker") as base:
                yield from _engine("docker", url, base)
            return
    daemon = shutil.which("dockerd", path=PATH)
    if not daemon:
        raise FileNotFoundError("dockerd is not installed")
    with _base("docker") as base, _storage("docker") as data:
        run = base / "exec"
        socket = base / "docker.sock"
        argv = [daemon, "--host", f"unix://{socket}", "--data-root", str(data), "--exec-root", str(run)]
        argv += ["--pidfile", str(base / "dockerd.pid"), "--group", str(os.getgid())]
        # No bridge and no packet filter: vmbox uses the host's network or none.
        argv += ["--bridge", "none", "--iptables=false", "--ip6tables=false", *more]
        service = Service(argv, socket, env={"PATH": PATH, **leftovers.MARKED}, prefix=_as_root())
        with _cleaned(base, data), _served(service):
            try:
                yield from _engine("docker", f"unix://{socket}", base, service=service)
            finally:
                _remove_containers(f"unix://{socket}")


def podman_rootful(settings: str = "", *more: str) -> Iterator[EngineUnderTest]:
    """`settings` are lines of [containers] in its containers.conf, `more` are options of podman."""
    with _base("podman-rootful") as base, _storage("podman") as storage:
        who = {"prefix": _as_root(), "uid": os.getuid(), "gid": os.getgid()}
        yield from _podman("podman-rootful", base, storage, settings, more, rootless=False, **who)  # type: ignore[arg-type]


def podman_rootless(settings: str = "", *more: str) -> Iterator[EngineUnderTest]:
    with _base("podman-rootless") as base, _storage("podman-rootless") as storage:
        if os.getuid() != 0:
            prefix: Sequence[str] = ()
            uid, gid = os.getuid(), os.getgid()
        else:
            user = _test_user()
            uid, gid = user.pw_uid, user.pw_gid
            prefix = _as_user(uid, gid)
        os.chown(storage, uid, gid)
        if prefix:
            # What is mounted below later is seen in the mount namespace that rootless Podman makes for itself, as it is
            # on a host whose / is shared.
            for words in (["--bind", str(base)], ["--make-shared"]):
                subprocess.run(["mount", *words, str(base)], check=True)
        who = {"prefix": prefix, "uid": uid, "gid": gid}
        yield from _podman("podman-rootless", base, storage, settings, more, rootless=True, **who)  # type: ignore[arg-type]


def _podman(
    name: str,
    base: Path,
    storage: Path,
    settings: str,
    more: Sequence[str],
    *,
    prefix: Sequence[str],
    uid: int,
    gid: int,
    rootless: bool,
) -> Iterator[EngineUnderTest]:
    podman = shutil.which("podman", path=PATH)
    if not podman:
        raise FileNotFoundError("podman is not installed")
    run = base / "run"
    run.mkdir(mode=0o700)
    os.chown(run, uid, gid)
    env = {"PATH": PATH, "HOME": str(run), "XDG_RUNTIME_DIR": str(run), "TMPDIR": str(run), **leftovers.MARKED}
    text = containers_conf(rootless=rootless).replace("[containers]\n", f"[containers]\n{settings}\n")
    (base / "containers.conf").write_text(text)
    env["CONTAINERS_CONF"] = str(base / "containers.conf")
    socket = run / "podman.sock"
    argv = [podman, "--root", str(storage), "--runroot", str(run / "c"), "--tmpdir", str(run / "t")]
    argv += ["--storage-driver", "overlay", *more, "system", "service", "--time", "0", f"unix://{socket}"]
    if prefix and not rootless:
        prefix = [*prefix, "env", *(f"{key}={value}" for key, value in env.items())]
    # Podman keeps its first run root in its database, and this run root is new in every run.
    stale = [str(storage / name) for name in ("libpod/bolt_state.db", "db.sql")]
    subprocess.run([*([] if rootless else _sudo()), "rm", "-f", *stale], check=True)
    service = Service(argv, socket, env=env, prefix=prefix)
    if prefix and not rootless:
        _give(socket, uid, gid)
    with _cleaned(base, storage), _served(service):
        try:
            who = {"prefix": prefix if rootless else (), "uid": uid, "gid": gid}
            yield from _engine(name, f"unix://{socket}", base, service=service, **who)  # type: ignore[arg-type]
        finally:
            _remove_containers(f"unix://{socket}")


def _engine(
    name: str,
    url: str,
    base: Path,
    *,
    service: Service | None = None,
    prefix: Sequence[str] = (),
    uid: int | None = None,
    gid: int | None = None,
) -> Iterator[EngineUnderTest]:
    uid, gid = os.getuid() if uid is None else uid, os.getgid() if gid is None else gid
    env = {"PATH": PATH, "HOME": str(base / "home"), "LC_ALL": "C.UTF-8", "TERM": "xterm", "VMBOX_ENGINE": url}
    env |= leftovers.MARKED
    # What a test sees does not depend on how fast a mirror is.
    env["VMBOX_WAIT_FOR_DEBUGINFO"] = "true"
    for key in (
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "CI",
        # Of `make coverage`; another user cannot write its data.
        *(() if prefix else ("COVERAGE_PROCESS_CONFIG",)),
    ):
        if key in os.environ:
            env[key] = os.environ[key]
    if mirrors := archive_mirrors():
        env["VMBOX_MIRRORS"] = mirrors
    kept = cache_root() / ("user" if prefix else "caller")
    for key, path in {
        "HOME": base / "home",
        "XDG_RUNTIME_DIR": base / "xdg",
        "VMBOX_RUNTIME_DIR": base / "runtime",
        "VMBOX_STATE_DIR": base / "state",
        "VMBOX_CONFIG_DIR": base / "config",
        "VMBOX_CACHE_DIR": kept,
    }.items():
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, uid, gid)
        env[key] = str(path)
    _share_bases(kept, uid, gid)
    with contextlib.ExitStack() as stack:
        command, more = _command(stack, base, prefix)
        engine = stack.enter_context(contextlib.closing(connect(url)))
        yield EngineUnderTest(
            name=name,
            url=url,
            engine=engine,
            env={**env, **more},
            vmbox=command,
            uid=uid,
            gid=gid,
            base=base,
            service=service,
        )


@cache
def archive_mirrors() -> str:
    """What $VMBOX_MIRRORS needs where Debian's archive cannot be reached: mirrors still have a copy of Debian 11."""
    try:
        socket.create_connection(("archive.debian.org", 80), timeout=10).close()
    except OSError:
        archive, snapshot = "http://archive.debian.org/debian", "http://snapshot.debian.org/archive/debian-security"
        live = "http://deb.debian.org/debian"
        return f"{archive}={live} {snapshot}/20260831T000000Z={live}-security"
    return ""


def _share_bases(cache: Path, uid: int, gid: int) -> None:
    """Link the root file systems of bases in a user's cache to those of the caller.

    Except that of debian-12, which each user needs first and makes: both root and a normal user.
    """
    shared, own = cache_root() / "rootfs", cache / "rootfs"
    shared.mkdir(mode=0o755, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        if cache.name == "caller":
            os.chown(shared, uid, gid)
            own.symlink_to(shared)
            return
        own.mkdir(mode=0o755)
        os.chown(own, uid, gid)
        for name in ("latest", "debian-11", "debian-13"):
            (own / f"{name}.tar").symlink_to(shared / f"{name}.tar")


ENTRY = "import sys; from sandbox.__main__ import main; sys.exit(main())"


def _command(stack: contextlib.ExitStack, base: Path, prefix: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The vmbox of this checkout for the user of `prefix`, who may have no access to checkout or interpreter."""
    if not prefix:
        return [sys.executable, "-c", ENTRY], {}
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    roots = [CHECKOUT, packages]
    for interpreter in (sys.executable, f"/usr/bin/python{version}"):
        # By a shell: what setpriv starts directly is still looked up with root's capabilities.
        probe = [*prefix, "sh", "-c", 'exec "$0" "$@"', interpreter]
        probe += ["-c", "import sys; print(open(sys.argv[1]))", str(CHECKOUT / "pyproject.toml")]
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return [*prefix, interpreter, "-c", ENTRY], {"PYTHONPATH": ":".join(map(str, roots))}
    mounted = []
    for number, root in enumerate(roots):
        target = base / f"python{number}"
        target.mkdir()
        subprocess.run(["mount", "--bind", "-o", "ro", str(root), str(target)], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", str(target)], check=False)
        mounted.append(str(target))
    return [*prefix, f"/usr/bin/python{version}", "-c", ENTRY], {"PYTHONPATH": ":".join(mounted)}


@contextlib.contextmanager
def _base(name: str) -> Iterator[Path]:
    """A directory with a short path for sockets, which every user can pass."""
    # Short, because Podman allows its run root, which vmbox may put here, at most 50 characters.
    base = Path(tempfile.mkdtemp(prefix=f"vmbox-{name.removeprefix('podman-')}-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        subprocess.run([*_sudo(), "rm", "-rf", "--one-file-system", str(base)], check=False)


@contextlib.contextmanager
def _served(service: Service) -> Iterator[None]:
    try:
        service.wait_until_up()
        yield
    finally:
        service.close()


def _give(socket: Path, uid: int, gid: int) -> None:
    """Wait for root's socket, and give it to a caller who is not root."""
    deadline = time.monotonic() + 20
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    subprocess.run([*_sudo(), "chown", f"{uid}:{gid}", str(socket)], check=True)


@contextlib.contextmanager
def _cleaned(base: Path, storage: Path) -> Iterator[None]:
    """Remove all processes and mounts of the engine at the end, in any case."""
    try:
        yield
    finally:
        _end_monitors(base)
        _unmount_below(base, storage)


def _remove_containers(url: str) -> None:
    with contextlib.closing(connect(url)) as engine:
        for container in engine.containers({}):
            engine.remove(container.id)


def _unmount_below(*roots: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(mounts, reverse=True):
        if any(Path(point) == root or root in Path(point).parents for root in roots):
            subprocess.run([*_sudo(), "umount", "--lazy", point], check=False)


def _end_monitors(base: Path) -> None:
    """End the conmon processes that Podman keeps for minutes after each exec, to answer for its exit code."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"{base}/run/".encode() in (entry / "cmdline").read_bytes():
                subprocess.run([*_sudo(), "kill", "-KILL", entry.name], check=False)
    # Rootless Podman also keeps a process that holds its user namespace open.
    for path in base.glob("**/pause.pid"):
        subprocess.run([*_sudo(), "kill", "-KILL", path.read_text().strip()], check=False)


def _sudo() -> list[str]:
    return [] if os.getuid() == 0 else ["sudo", "-n"]


def _as_root() -> list[str]:
    """A command prefix for a service, which must lead its own process group."""
    return [] if os.getuid() == 0 else ["sudo", "-n", "setsid"]


def _as_user(uid: int, gid: int) -> list[str]:
    return ["setpriv", "--reuid", str(uid), "--regid", str(gid), "--init-groups", "--"]


def _test_user() -> pwd.struct_passwd:
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(["useradd", "--no-create-home", "--shell", "/usr/sbin/nologin", USER], check=True)
        user = pwd.getpwnam(USER)
    for kind in ("uid", "gid"):
        ranges = Path(f"/etc/sub{kind}")
        if not ranges.exists() or f"{USER}:" not in ranges.read_text():
            subprocess.run(["usermod", f"--add-sub{kind}s", "2000000-2065535", USER], check=True)
    return user


ENGINES: Mapping[str, Callable[[], Iterator[EngineUnderTest]]] = {
    "docker": docker,
    "podman-rootful": podman_rootful,
    "podman-rootless": podman_rootless,
}

RUNNING: list[EngineUnderTest] = []
"""The engines that this run of the tests has started."""

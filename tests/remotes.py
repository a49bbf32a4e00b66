"""Remote engines: behind sshd in a network namespace, and behind TLS on loopback."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import certificates
import engines
from engines import PATH, EngineUnderTest
from sandbox.engine import connect
from sandbox.engine.service import Service

_NUMBERS = itertools.count()

_SSHD = """\
Port 2222
ListenAddress {address}
HostKey {directory}/host
AuthorizedKeysFile {directory}/me.pub
PidFile none
PasswordAuthentication no
StrictModes no
UsePAM no
"""

_PRIVSEP = Path("/run/sshd")
"""The empty directory in which a root's sshd confines itself, as Debian builds it."""

_SSH = """\
#!/bin/sh
exec {ssh} -F none -i {directory}/me \\
  -o IdentitiesOnly=yes -o UserKnownHostsFile={directory}/known -o LogLevel=ERROR "$@"
"""


@dataclass(slots=True, kw_only=True)
class Sshd:
    target: str
    """USER@HOST:PORT."""
    directory: Path
    """Its `bin/ssh` knows key and host; `known` is its list of known hosts."""
    argv: list[str]
    space: str
    """Its network namespace."""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.argv, stdout=log, stderr=log, start_new_session=True)
        _await(*self.target.rpartition("@")[2].split(":"), self.process, self.directory / "log")

    def cut(self) -> None:
        """End the server and its connections, as if the network had failed."""
        if self.process is not None:
            # Each connection has processes of its own, in sessions of their own.
            inside = subprocess.run(
                [*engines._sudo(), "ip", "netns", "pids", self.space], capture_output=True, check=True
            )
            subprocess.run([*engines._sudo(), "kill", "-KILL", *inside.stdout.decode().split()], check=False)
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def sshd(under_test: EngineUnderTest, directory: Path) -> Iterator[Sshd]:
    """Run a server in its own network namespace, to which the engine's user can log in."""
    import pwd

    # The kernel takes an interface away some time after its namespace.
    number = (os.getpid() * 100 + next(_NUMBERS)) % 1_000_000
    network = number % 4096
    here, there = (f"10.{200 + network // 256}.{network % 256}.{end}" for end in (1, 2))
    space, near, far = (f"vmbox{kind}{number}" for kind in ("ns", "a", "b"))
    directory.chmod(0o755)
    for name in ("host", "me"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    key = (directory / "host.pub").read_text()
    (directory / "known").write_text(f"[{there}]:2222 {key}")
    _root("chown", f"{under_test.uid}", str(directory / "host"))
    (directory / "sshd_config").write_text(_SSHD.format(address=there, directory=directory))
    (directory / "bin").mkdir()
    (directory / "bin" / "ssh").write_text(_SSH.format(ssh=shutil.which("ssh"), directory=directory))
    (directory / "bin" / "ssh").chmod(0o755)
    program, libraries = _server()
    with contextlib.ExitStack() as stack:
        _root("ip", "netns", "add", space)
        stack.callback(_root, "ip", "netns", "delete", space)
        _root("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _root("ip", "address", "add", f"{here}/30", "dev", near)
        _root("ip", "link", "set", near, "up")
        for words in (f"address add {there}/30 dev {far}", f"link set {far} up"):
            _root("ip", "-netns", space, *words.split())
        argv = [*engines._sudo(), "ip", "netns", "exec", space]
        argv += _privsep(stack, directory) if under_test.uid == 0 else engines._as_user(under_test.uid, under_test.gid)
        argv += ["env", f"LD_LIBRARY_PATH={libraries}", program, "-D", "-e", "-f", str(directory / "sshd_config")]
        user = pwd.getpwuid(under_test.uid).pw_name
        server = Sshd(target=f"{user}@{there}:2222", directory=directory, argv=argv, space=space)
        stack.callback(server.cut)
        server.start()
        yield server


def _privsep(stack: contextlib.ExitStack, directory: Path) -> list[str]:
    """Give a root's sshd what its package would install: its user, in a mount namespace, and its directory.

    `ip netns exec` has made the mount namespace.
    """
    if not _PRIVSEP.exists():
        _root("mkdir", "-m", "755", str(_PRIVSEP))
        stack.callback(_root, "rmdir", str(_PRIVSEP))
    (directory / "passwd").write_text(
        Path("/etc/passwd").read_text() + f"sshd:x:65533:65534::{_PRIVSEP}:/usr/sbin/nologin\n"
    )
    return ["sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(directory / "passwd")]


def _server() -> tuple[str, str]:
    """sshd and the directory of its libraries. Unpacked, because the installed package would start a service."""
    if installed := shutil.which("sshd", path=PATH):
        return installed, ""
    kept = engines.cache_root() / "sshd"
    program = kept / "usr" / "sbin" / "sshd"
    if not program.exists():
        kept.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "download", "-q=2", "openssh-server", "libwrap0"], cwd=kept, check=True)
        for package in kept.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(kept)], check=True)
    return str(program), ":".join(map(str, [*kept.glob("lib/*-linux-gnu"), *kept.glob("usr/lib/*-linux-gnu")]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """An engine behind TLS."""

    url: str
    socket: str
    """The same engine's URL on its own host."""
    certificates: Path
    """The client certificates, as for $DOCKER_CERT_PATH."""
    strangers: Path
    """The same from an authority that the engine does not know."""

    def env(self) -> Mapping[str, str]:
        return {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.certificates)}


@contextlib.contextmanager
def docker_behind_tls(directory: Path) -> Iterator[Behind]:
    """Run a separate dockerd on loopback, with another host name from a UTS namespace."""
    ours, strangers = (certificates.make(directory / name) for name in ("ours", "strangers"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with engines._base("tls") as base:
        argv = ["/bin/sh", "-c", 'hostname elsewhere; exec "$@"', "elsewhere", str(shutil.which("dockerd", path=PATH))]
        argv += ["--host", f"tcp://127.0.0.1:{port}", "--host", f"unix://{base}/docker.sock", "--tlsverify"]
        argv += ["--tlscacert", f"{ours}/ca.pem", "--tlscert", f"{ours}/cert.pem", "--tlskey", f"{ours}/key.pem"]
        argv += ["--data-root", str(base / "data"), "--exec-root", str(base / "exec"), "--pidfile", f"{base}/pid"]
        argv += ["--group", str(os.getgid()), "--bridge", "none", "--iptables=false", "--ip6tables=false"]
        prefix = [*engines._as_root(), "unshare", "--uts"]
        served = Service(argv, base / "docker.sock", env={"PATH": PATH}, prefix=prefix)
        with engines._cleaned(base, base), engines._served(served):
            try:
                yield Behind(
                    url=f"tcp://127.0.0.1:{port}",
                    socket=f"unix://{base}/docker.sock",
                    certificates=ours,
                    strangers=strangers,
                )
            finally:
                with contextlib.closing(connect(f"unix://{base}/docker.sock")) as engine:
                    for container in engine.containers({}):
                        engine.remove(container.id)


def _root(*argv: str) -> None:
    subprocess.run([*engines._sudo(), *argv], check=True)


def _await(host: str, port: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return

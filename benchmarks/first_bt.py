"""Measures the first `bt` of a new kernel: vmbox, and the same by hand, on the same archive in one run.

    python benchmarks/first_bt.py [--engine NAME|URL] VMCORE

By hand: in a fresh Debian container, install crash and the kernel's debug package, start crash, type bt. vmbox: an
empty cache, and only the distribution's base image, which both start from; and again with crash's image, as for the
second kernel of a distribution. Both fetch through one forwarder on loopback, which counts bytes. As Debian's archive
it speaks HTTP and HTTPS, with a certificate that is made for the run: over plain HTTP vmbox reads whole packages. It
takes ports 80 and 443 of 127.0.0.2, for which one has to be root. Figures are ratios within the run; the archive is
Debian's, or its mirror in VMBOX_MIRRORS. Give it an engine of its own: vmbox's images on it are removed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

from sandbox import image, profiles
from sandbox.debuginfo.package_names import package_names
from sandbox.debuginfo.store import size_on_disk
from sandbox.dump import identify
from sandbox.engine import Bind, ContainerSpec, Engine, connect, labels
from sandbox.host import mirrors, paths

HOST = "127.0.0.2"
ARCHIVES = ("http://deb.debian.org/debian-security", "http://deb.debian.org/debian")

BY_HAND = r"""
set -e
exec 3>&1 >&2
rm -f /etc/apt/sources.list.d/*
printf '%s\n' "$SOURCES" >/etc/apt/sources.list
before=$(du -sxk / | cut -f1)
export DEBIAN_FRONTEND=noninteractive
# As in the registries' Debian: no descriptions, and dpkg syncs no file.
echo 'Acquire::Languages "none";' >/etc/apt/apt.conf.d/90languages
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/90speed
apt-get -q update
apt-get -q -y --no-install-recommends install crash "$PACKAGE"
echo bt | crash -s "/usr/lib/debug/boot/vmlinux-$RELEASE" /vmcore | tee /tmp/answer
grep -q '^ *#[0-9]' /tmp/answer
after=$(du -sxk / | cut -f1)
echo "kilobytes $((after - before))" >&3
"""


@dataclass
class Measured:
    seconds: float
    bytes: int
    disk: int


@dataclass
class Forwarder:
    """Counts everything that is fetched."""

    certificate: Path
    sent: int = 0
    url: str = f"http://{HOST}"

    @property
    def environment(self) -> dict[str, str]:
        """What has vmbox fetch through it."""
        words = [f"{archive}={self.url}/{number}" for number, archive in enumerate(ARCHIVES)]
        return {"VMBOX_MIRRORS": " ".join(words), "SSL_CERT_FILE": str(self.certificate)}


@contextlib.contextmanager
def forwarder() -> Iterator[Forwarder]:
    with tempfile.TemporaryDirectory() as directory, _forwarding(Path(directory)) as state:
        yield state


@contextlib.contextmanager
def _forwarding(directory: Path) -> Iterator[Forwarder]:
    state = Forwarder(certificate=directory / "certificate.pem")
    request = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=vmbox -addext subjectAltName=IP:"
    files = ["-keyout", directory / "key.pem", "-out", state.certificate]
    subprocess.run(["openssl", *f"{request}{HOST}".split(), *files], check=True, capture_output=True)
    client = httpx.Client(follow_redirects=True, timeout=60)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            number, _, rest = self.path.removeprefix("/").partition("/")
            headers = {name: self.headers[name] for name in ("Range", "If-Modified-Since") if name in self.headers}
            url = mirrors.rewrite(f"{ARCHIVES[int(number)]}/{rest}")
            with client.stream("GET", url, headers={**headers, "Accept-Encoding": "identity"}) as answer:
                self.send_response(answer.status_code)
                for name in ("Content-Length", "Content-Range", "Content-Type", "ETag", "Last-Modified"):
                    if name in answer.headers:
                        self.send_header(name, answer.headers[name])
                if "Content-Length" not in answer.headers:
                    self.send_header("Connection", "close")
                    self.close_connection = True
                self.end_headers()
                with contextlib.suppress(OSError):
                    for piece in answer.iter_raw(1 << 18):
                        self.wfile.write(piece)
                        with lock:
                            state.sent += len(piece)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(state.certificate, directory / "key.pem")
    servers = [ThreadingHTTPServer((HOST, port), Handler) for port in (80, 443)]
    # The handshake is done in the thread of the request.
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True, do_handshake_on_connect=False)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", type=Path)
    parser.add_argument("--engine")
    parser.add_argument("--scratch", type=Path, default=paths.cache_dir() / "tmp", help="where the empty caches are")
    given = parser.parse_args()
    given.scratch.mkdir(parents=True, exist_ok=True)
    vmcore = identify(given.vmcore)
    home = profiles.select(vmcore).distribution
    names = package_names(vmcore, home)
    assert names is not None
    (package, *_) = names.packages
    with contextlib.closing(connect(given.engine)) as engine, forwarder() as through:
        base = image.ensure_base(home, engine)
        drop_images(engine)
        found = {"vmbox, first of its distribution": vmbox(given, through, engine)}
        found["vmbox, with the image there"] = vmbox(given, through, engine)
        found["the same without debuginfo first"] = vmbox(given, through, engine, wait=False)
        found["by hand"] = by_hand(
            given.vmcore, package, vmcore.release or "", home, base=base, engine=engine, through=through
        )
    hand = found["by hand"]
    print(f"{vmcore.release}: {package}")
    print(f"{'':36} {'time':>8} {'fetched':>10} {'disk':>10}   of by hand")
    for name, one in found.items():
        parts = (one.seconds / hand.seconds, one.bytes / hand.bytes, one.disk / hand.disk)
        ratios = "  ".join(f"{part:.2f}" for part in parts)
        print(f"{name:36} {one.seconds:6.1f} s {one.bytes / 1e6:7.0f} MB {one.disk / 1e6:7.0f} MB   {ratios}")


def vmbox(given: argparse.Namespace, through: Forwarder, engine: Engine, *, wait: bool = True) -> Measured:
    """The first `bt`; unless it waits for debuginfo, until the answer without it, as `vmbox run` does by default."""
    own = Path(tempfile.mkdtemp(dir=given.scratch))
    own.chmod(0o755)
    env = {**os.environ, **through.environment, "VMBOX_CACHE_DIR": str(own), "VMBOX_ENGINE": engine.info().endpoint}
    command = [sys.executable, "-c", "from sandbox.__main__ import main; main()"]
    before, began = through.sent, time.monotonic()
    try:
        done = subprocess.run(
            [*command, "run", *(["--wait"] if wait else []), str(given.vmcore), "--", "bt"],
            env=env,
            capture_output=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode or b"#0" not in done.stdout:
            sys.exit(f"vmbox failed: {done.stderr.decode()}")
        return Measured(seconds=seconds, bytes=through.sent - before, disk=size_on_disk(own / "debuginfo"))
    finally:
        subprocess.run([*command, "close", str(given.vmcore)], env=env, capture_output=True, check=False)
        shutil.rmtree(own)


def by_hand(
    dump: Path,
    package: str,
    release: str,
    home: profiles.Profile,
    *,
    base: str,
    engine: Engine,
    through: Forwarder,
) -> Measured:
    lines = (*home.image.sources, *(home.debuginfo.sources if home.debuginfo else ()))
    sources = "\n".join(lines)
    for number, archive in enumerate(ARCHIVES):
        sources = sources.replace(f"{archive} ", f"{through.url}/{number} ")
    spec = ContainerSpec(
        image=base,
        argv=["sh", "-c", BY_HAND],
        env={"SOURCES": sources, "PACKAGE": package, "RELEASE": release},
        binds=[Bind(source=dump.resolve(), target="/vmcore")],
        network="host",
        hardened=False,
        as_caller=False,
    )
    before, began = through.sent, time.monotonic()
    said = b"".join(engine.run(spec)).decode().split()
    return Measured(seconds=time.monotonic() - began, bytes=through.sent - before, disk=int(said[-1]) * 1024)


def drop_images(engine: Engine) -> None:
    """Removes vmbox's images except the bases, so that the first run builds its image."""
    for one in engine.images({labels.IMAGE: ""}):
        if not any("/vmbox/base-" in tag for tag in one.tags):
            engine.remove_image(one.id)


if __name__ == "__main__":
    main()

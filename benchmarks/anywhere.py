"""Dumps that are not plain files: python -m benchmarks.anywhere RAW_VMCORE [--rounds N] [--bytes SIZE] [--engine URL]

RAW_VMCORE is a plain ELF dump whose debuginfo can be found. In one run, as ratios beside the plain file:

* `vmbox info` of a flattened dump of SIZE bytes (6.5 GB by default), the first time and the second. It is RAW_VMCORE in
  records of 16 KiB, and then records whose content is a hole, so that the disk has only their heads.
* the first bt of the plain file, of the same in a tar (its bytes through the view, and nothing else), flattened, and
  over HTTP from a server on loopback that sends 20 MB in a second; and what was fetched
* the peak of memory of `vmbox info`, and of the server of the view

Needs RAW_VMCORE's size twice, and a quarter of SIZE, in $TMPDIR.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.views import flatten

RECORD = 16 << 10
RATE = 20e6


@dataclass
class Site:
    url: str
    sent: int = 0


@contextmanager
def throttled(file: Path, rate: float = RATE) -> Iterator[Site]:
    """Serves one file by ranges, `rate` bytes in a second for all connections together."""
    site, lock = Site(""), threading.Lock()
    free = [time.monotonic()]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            total = file.stat().st_size
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, total)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", '"1"')
            self.end_headers()
            with file.open("rb") as source:
                source.seek(start)
                while start < end:
                    piece = source.read(min(64 << 10, end - start))
                    with lock:
                        free[0] = max(free[0], time.monotonic()) + len(piece) / rate
                        wait = free[0] - time.monotonic()
                        site.sent += len(piece)
                    time.sleep(max(0.0, wait))
                    self.wfile.write(piece)
                    start += len(piece)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/vmcore"
    try:
        yield site
    finally:
        server.shutdown()


def enlarge(flat: Path, size: int) -> None:
    """Adds records with holes to a flattened dump, behind the end of the one in it."""
    with flat.open("r+b") as out:
        at = out.seek(-16, os.SEEK_END)
        target = 1 << 40
        while at < size:
            out.seek(at)
            out.write(struct.pack(">qq", target, RECORD))
            at, target = at + 16 + RECORD, target + RECORD
        out.seek(at)
        out.write(b"\xff" * 16)


def vmbox(*words: object) -> str:
    argv = [sys.executable, "-m", "sandbox", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words}: {done.stderr}")
    return done.stdout


def seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def first_bt(dump: object, engine: list[str]) -> float:
    """In a case of its own. The index of a flattened dump is kept; what was fetched over HTTP is not."""
    taken = seconds(lambda: vmbox("run", "-q", "--once", *engine, dump, "--", "bt"))
    if str(dump).startswith("http:"):
        vmbox("close", dump)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bytes", type=float, default=6.5e9)
    parser.add_argument("--engine")
    given = parser.parse_args()
    plain, engine = given.vmcore, ["--engine", given.engine] if given.engine else []
    print(f"{plain}: {plain.stat().st_size / 1e6:,.0f} MB; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as top:
        flat, tar = Path(top, "flat"), Path(top, "vmcore.tar")
        flatten(plain, flat, RECORD)
        enlarge(flat, int(given.bytes))
        nothing = seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
        told = [seconds(lambda: vmbox("info", flat)) for _ in range(4)]
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"info, flattened, {flat.stat().st_size / 1e9:.1f} GB: {told[0]:.2f} s, then {min(told[1:]):.2f} s;",
            end=" ",
        )
        print(f"peak {peak:.0f} MB; a Python that does nothing {nothing:.2f} s")
        with tarfile.open(tar, "w") as archive:
            archive.add(plain, "vmcore")
        first_bt(plain, engine)  # debuginfo, image, page cache
        ratios: dict[str, list[float]] = {"tar": [], "flattened": [], "over HTTP": []}
        with throttled(plain) as site:
            for _ in range(given.rounds):
                beside = first_bt(plain, engine)
                ratios["tar"].append(first_bt(tar, engine) / beside)
                ratios["flattened"].append(first_bt(flat, engine) / beside)
                site.sent = 0
                ratios["over HTTP"].append(first_bt(site.url, engine) / beside)
                share = site.sent / plain.stat().st_size
                load = os.getloadavg()[0]
                print(f"plain {beside:.2f} s; fetched {site.sent / 1e6:.1f} MB, {share:.1%}; load {load:.1f}")
            vmbox("run", "-q", *engine, plain, "--", "bt")
            vmbox("run", "-q", *engine, site.url, "--", "bt")
            warm = [
                seconds(lambda: vmbox("run", "-q", site.url, "--", "bt"))
                / seconds(lambda: vmbox("run", "-q", plain, "--", "bt"))
                for _ in range(7)
            ]
            vmbox("close", "--all")
        for name, found in ratios.items():
            print(f"first bt, {name} / plain: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        print(f"second bt, over HTTP / plain: {statistics.median(warm):.2f} ({min(warm):.2f} to {max(warm):.2f})")


if __name__ == "__main__":
    main()

"""Measures the cost of debuginfo: bytes fetched of the package, peak memory, disk, and the seconds of preparing it.

    python -m benchmarks.debuginfo [--engine NAME|URL] VMCORE

VMCORE is of a Debian kernel. (For a release alone the whole package is fetched, because only its hash proves it.) The
cache is empty; a forwarder on loopback counts bytes (see first_bt: one has to be root). Preparing is done again on a
copy without its index, in the usual container.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.first_bt import forwarder
from sandbox.case.gdb_index import gdb_index_builder
from sandbox.debuginfo.gdb_index import add_gdb_index
from sandbox.engine import connect
from sandbox.host import paths
from sandbox.progress import QUIET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine")
    parser.add_argument("vmcore", type=Path)
    given = parser.parse_args()
    scratch = paths.cache_dir() / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.closing(connect(given.engine)) as engine,
        forwarder() as through,
        tempfile.TemporaryDirectory(dir=scratch) as own,
    ):
        Path(own).chmod(0o755)  # containers read what is in it
        env = {**os.environ, **through.environment, "VMBOX_CACHE_DIR": own, "VMBOX_ENGINE": engine.info().endpoint}
        command = [sys.executable, "-c", "from sandbox.__main__ import main; main()", "debuginfo", "fetch"]
        command += [str(given.vmcore), "--json"]
        began = time.monotonic()
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            sys.exit(f"vmbox failed: {process.returncode}")
        vmlinux = Path(json.loads(said)["debuginfo"]["vmlinux"])
        about = json.loads((vmlinux.parent / "about.json").read_text())
        print(f"{about['package']}: {about['verified']}")
        print(
            f"fetched {through.sent / 1e6:.0f} MB of {about['size'] / 1e6:.0f} MB, {through.sent / about['size']:.3f}"
        )
        print(f"{seconds:.1f} s, peak {used.ru_maxrss / 1e3:.0f} MB, kept {vmlinux.stat().st_size / 1e6:.0f} MB")
        with tempfile.TemporaryDirectory(dir=scratch) as again:
            Path(again).chmod(0o777)  # the container writes into it
            bare = Path(again) / "vmlinux"
            subprocess.run(["objcopy", "--remove-section=.gdb_index", vmlinux, bare], check=True)
            began = time.monotonic()
            assert add_gdb_index(Path(again), gdb_index_builder(engine), QUIET)
            print(f"prepared in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()

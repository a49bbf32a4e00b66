"""crash's own prompt in the case container, beside the warm crash and without disturbing it."""

from __future__ import annotations

import fcntl
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sandbox import terminal
from sandbox.case import VMLINUX, dump_paths
from sandbox.engine import connect
from sandbox.errors import VmboxError
from sandbox.model import Case


def interactive(case: Case) -> int:
    """Runs crash at the user's terminal until it ends. Returns its exit status."""
    if not sys.stdin.isatty():
        raise VmboxError(
            "vmbox shell needs a terminal", hint=f"for scripts: vmbox run {case.dump} -- COMMAND, or commands on stdin"
        )
    engine = connect(case.endpoint)
    try:
        with (
            _presence(case) as ident,
            engine.exec(
                case.container,
                ["/usr/libexec/vmbox/shell", ident, "crash", "--no_crashrc", VMLINUX, *dump_paths(case.files)],
                tty=True,
                stdin=True,
                env={"TERM": os.environ.get("TERM", "xterm")},
            ) as process,
        ):
            return terminal.attach(process)
    finally:
        engine.close()


@contextmanager
def _presence(case: Case) -> Iterator[str]:
    """A lock held for as long as we live: the script in the container ends the program when it is let go."""
    ident = secrets.token_hex(4)
    path = case.directory / f"shell-{ident}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield ident
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)

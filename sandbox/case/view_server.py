"""The process that serves the view of one dump as a read-only file, by FUSE, for as long as the dump's case lives.

    python -m sandbox.case.view_server

It is started by `sandbox.case.views`, for rootless Podman in the user and mount namespace of its containers. The
request comes as a line of JSON on standard input. When the file can be read, a line "ready" is written to standard
output, and the first process ends. A second line has the FIFO of the case that the view is for; an end of the input
before that ends the server, because its starter has ended. From then on it ends when the FIFO has no reader, and takes
the mount with it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sandbox.case.places import VIEW_LOCK
from sandbox.dump.source import FileSource
from sandbox.dump.view import View, open_view
from sandbox.errors import VmboxError

if TYPE_CHECKING:
    from sandbox.dump.kdump_writer import PageView
    from sandbox.remote.source import RemoteSource

READY: Final = b"ready\n"

MOUNT: Final = "mount"
_NAME: Final = "vmcore"

_CACHED: Final = 24 * 3600.0
"""Seconds for which the kernel need not ask again for what never changes."""

_SAID: Final = 400
"""Bytes of the last error."""

_DETACH: Final = 2
_NO_FOLLOW: Final = 8


def open_file(dump: Path) -> FileSource | RemoteSource:
    """Opens a dump, or the one on a server that `dump` describes. Raises `DumpError`."""
    from sandbox.remote import described

    if not described.is_description(dump):
        return FileSource(dump)
    from sandbox.remote.source import RemoteSource

    return RemoteSource(dump)


def names(count: int) -> list[str]:
    """The files in the mount: one, or the parts of a split set."""
    return [_NAME, *(f"{_NAME}-{number}" for number in range(2, count + 1))]


def unmount(place: Path) -> None:
    """Detaches the mount at `place`, if there is one, although files of it are open. Raises nothing."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(place), _DETACH | _NO_FOLLOW)
    else:
        for program in ("fusermount3", "fusermount"):
            try:
                subprocess.run([program, "-uzq", str(place)], check=False, capture_output=True)
            except FileNotFoundError:
                continue
            return


def main() -> None:
    """Starts the server, which outlives this process, and says when it serves. Exit status 1, with one line, if not."""
    request = json.loads(sys.stdin.readline())
    # `podman unshare` waits for the process that it starts, in two processes of its own.
    told, telling = os.pipe()
    if os.fork():
        os.close(telling)
        said = os.read(told, 64)
        sys.stdout.buffer.write(said)
        sys.exit(0 if said else 1)
    os.close(told)
    os.setsid()
    place = Path(request["place"])
    # Held until this process ends in any way: by it others see whether the view is served.
    lock = os.open(place / VIEW_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, str(os.getpid()).encode())
    try:
        with ExitStack() as stack:
            kept = Path(request["kept"])
            views = [_open(one, kept, stack) for one in request["dumps"]]
            if request["record"] is None:
                _serve(dict(zip(names(len(views)), views, strict=True)), place / MOUNT, telling)
            else:
                from sandbox.case import page_record

                pages = page_record.recorded(views, request["vmcore"], Path(request["record"]))
                _serve({_NAME: pages}, place / MOUNT, telling, exact=True)
    except VmboxError as error:
        sys.exit(error.message)


def _open(wanted: Mapping[str, Any], kept: Path, stack: ExitStack) -> View:
    file = open_file(Path(wanted["dump"]))
    stack.callback(file.close)
    if file.identity != wanted["identity"]:
        sys.exit("the dump was changed")
    added = [(at, bytes.fromhex(data)) for at, data in wanted["additions"]]
    view = open_view(file, kept, additions=added, marking=wanted["marking"])
    if view is None:
        sys.exit("the dump has no view")
    return view


def _serve(views: Mapping[str, View | PageView], mount: Path, telling: int, *, exact: bool = False) -> None:
    """`exact`: the kernel reads nothing ahead."""
    try:
        import mfusepy
    except (ImportError, OSError, AttributeError) as error:
        sys.exit(f"libfuse: {error}")

    class Files(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def init_with_config(self, connection: Any, config: Any) -> None:
            del config
            if exact and connection is not None:
                connection.max_readahead = 0
            threading.Thread(target=_end_with_the_case, args=(mount,), daemon=True).start()
            os.write(telling, READY)
            os.close(telling)

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            del fh
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2}
            if (view := views.get(path[1:])) is not None:
                return {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": view.size}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path: str, fh: int) -> list[str]:
            del path, fh
            return [".", "..", *views]

        def open(self, path: str, flags: int) -> int:
            del path
            if flags & (os.O_WRONLY | os.O_RDWR):
                raise mfusepy.FuseOSError(errno.EROFS)
            return 0

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            del fh
            try:
                return views[path[1:]].read_at(offset, size)
            except VmboxError as error:
                # For `store.last_failure`: a debugger that maps the file is killed (SIGBUS), and cannot say why.
                os.pwrite(sys.stderr.fileno(), error.message.encode(errors="replace").ljust(_SAID)[:_SAID], 0)
                raise mfusepy.FuseOSError(errno.EIO) from None

    try:
        mfusepy.FUSE(
            Files(),
            str(mount),
            foreground=True,
            nothreads=True,
            ro=True,
            nosuid=True,
            nodev=True,
            noexec=True,
            # The case is another user to the kernel: the engine's, or one of its namespace.
            allow_other=True,
            fsname="vmbox",
            subtype="vmbox",
            kernel_cache=True,
            attr_timeout=_CACHED,
            entry_timeout=_CACHED,
        )
    except RuntimeError:
        sys.exit("the mount was refused")  # libfuse has written why
    finally:
        unmount(mount)


def _end_with_the_case(mount: Path) -> None:
    """Waits for the end of the starter, then of the case, and ends this process."""
    ctl = sys.stdin.readline().strip()
    if ctl:
        _wait_for_the_last_reader(ctl)
    unmount(mount)
    # A case that is being killed may still hold the file, and libfuse waits for it.
    time.sleep(0.2)
    os._exit(0)


def _wait_for_the_last_reader(fifo: str) -> None:
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()


if __name__ == "__main__":
    main()

"""What a Podman of this host says of itself, kept: it asks other programs for it, which takes 0.2 s of each opening."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sandbox.host import decode, paths
from sandbox.host.files import write_atomically
from sandbox.version import __version__

_PARTS: Final = ("host", "store", "version")
_CONFIGURATION: Final = ("/usr/share/containers", "/etc/containers", "~/.config/containers")
_ENVIRONMENT: Final = ("CONTAINERS_", "STORAGE_", "XDG_", "HOME", "PATH")


class KeptInfo:
    """The answer to `info` of the Podman that `argv` starts. It counts until something changes that it depends on.

    A container is compared with what was asked for before a dump is given to it: an answer that is too old can make
    that fail, and nothing else.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._path = paths.runtime_dir() / "podman-info.json"
        self._depends_on = list(_depends_on(argv))

    def read(self) -> Mapping[str, Any] | None:
        """The answer that was kept; None where there is none that counts."""
        try:
            found = decode.parse_json(self._path.read_bytes())
        except (OSError, decode.DecodeError):
            return None
        if not isinstance(found, dict) or found.get("depends_on") != self._depends_on:
            return None
        told = found.get("told")
        return told if isinstance(told, dict) else None

    def keep(self, told: Mapping[str, Any]) -> None:
        """Keep an answer."""
        kept = {"depends_on": self._depends_on, "told": {name: told[name] for name in _PARTS}}
        with contextlib.suppress(OSError):
            write_atomically(self._path, json.dumps(kept).encode(), mode=0o600)


def _depends_on(argv: Sequence[str]) -> Iterator[str]:
    """The versions of vmbox, Podman and the kernel; the boot; the user; limits and cgroup of this process; settings."""
    yield from (__version__, " ".join(argv), str(os.geteuid()), *os.uname())
    yield f"{os.cpu_count()} {os.sysconf('SC_PHYS_PAGES')}"
    for name in ("sys/kernel/random/boot_id", "self/cgroup"):
        with contextlib.suppress(OSError):
            yield (Path("/proc") / name).read_text()
    yield from (f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_ENVIRONMENT))
    configuration = (file for directory in _CONFIGURATION for file in Path(directory).expanduser().glob("*"))
    for file in (Path(argv[0]), *sorted(configuration)):
        with contextlib.suppress(OSError):
            state = file.stat()
            yield f"{file} {state.st_ino} {state.st_size} {state.st_mtime_ns}"

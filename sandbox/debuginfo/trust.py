"""Decides which dumps may use a cached build.

A build-id is only a claim: any user can write one into an ELF file. So only files that were checked against their
archive, or that the user added for every dump, are kept under the build-id. All others are kept for one dump.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from sandbox.host import config
from sandbox.model import Verification, Vmcore

_CHECKED: Final = frozenset({Verification.SIGNATURE, Verification.HASH, Verification.RANGED_TLS, Verification.TLS})
_SHARED: Final = _CHECKED | {Verification.ADDED}
"""For every dump of the build."""
_STRICT: Final = frozenset({Verification.SIGNATURE, Verification.HASH, Verification.ADDED})
"""Also if `verify` is "strict". Debuginfo that the user added is the user's own decision."""


def strict() -> bool:
    """Whether the setting `verify` asks for a signature or a signed hash of everything: "strict", not "auto"."""
    return config.current().verify == "strict"


def shared(check: Verification) -> bool:
    """Whether debuginfo with this check may be used for every dump of its build."""
    return check in _SHARED


def objection(check: Verification, *, private: bool) -> str:
    """Why cached debuginfo must not be used, in words; empty if it may. `private`: it is kept for this dump alone."""
    if strict() and check not in _STRICT:
        return f'nothing signed was compared with it ({check or "not known"}), and verify is "strict"'
    if not private and not shared(check):
        return f"it was not checked ({check or 'not known'}), and is of another dump or of an earlier version"
    return ""


def key_of_dump(vmcore: Vmcore) -> str:
    """A name for one dump: from its file if that is on this host, else from its facts."""
    path = vmcore.path
    try:
        return key_of_file(path)
    except OSError:
        return _digest(path, vmcore.size, vmcore.release, vmcore.banner, vmcore.build_id)


def key_of_file(path: Path) -> str:
    """A name for one file as it is now. Raises OSError."""
    found = path.stat()
    return _digest(os.path.realpath(path), found.st_size, found.st_mtime_ns, found.st_ino)


def key_of_text(text: str) -> str:
    """A name for debuginfo that came from a URL."""
    return _digest(text)


def _digest(*words: object) -> str:
    return hashlib.sha256("\0".join(map(str, words)).encode("utf-8", "surrogateescape")).hexdigest()[:16]

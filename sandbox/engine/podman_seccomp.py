"""The system call filter of a hardened container of Podman: the engine's own one, without the kernel's keyrings.

Docker's filter refuses these calls. Podman's allows them (seccomp.json in containers/common), because a container has a
session keyring of its own. The keyring of its user is another thing: on a rootful engine it is the caller's, and has,
for example, the Kerberos tickets of `KEYRING:persistent`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.host import decode, paths
from sandbox.host.files import write_atomically
from sandbox.log import Log

KEYRINGS: Final = frozenset({"add_key", "keyctl", "request_key"})

_TRUSTED: Final = ("/usr/share/containers/seccomp.json", "/etc/containers/seccomp.json")
"""Where Podman looks for its profile when containers.conf names none."""

_log = Log("engine")


def path_for(reported: str, *, reads_ours: bool) -> str:
    """The profile to name in a request; "" for the one that is built into Podman.

    `reported` is the one that the engine says it takes by itself. One of the site's may allow all, or be "unconfined",
    and is not used. `reads_ours`: whether the engine can read this user's files.
    """
    if not reported:
        return ""
    standard = reported if reported in _TRUSTED else _TRUSTED[0]
    if not reads_ours:
        return standard
    try:
        text = json.dumps(without_keyrings(decode.parse_json(Path(standard).read_bytes()))).encode()
    except (OSError, decode.DecodeError, KeyError, TypeError) as error:
        _log.info("%s is used as it is: %s", standard, error)
        return standard
    ours = paths.runtime_dir() / "seccomp.json"
    try:
        if ours.read_bytes() == text:
            return str(ours)
    except OSError:
        pass
    write_atomically(ours, text, mode=0o600)
    return str(ours)


def is_ours(path: str) -> bool:
    """Whether a profile that `path_for` named refuses the keyrings."""
    return bool(path) and path not in _TRUSTED


def allows_keyrings(made: Mapping[str, Any]) -> bool:
    """Whether the filter in a runtime's config.json (linux.seccomp) lets a container use them."""
    rules = made.get("syscalls") or ()
    return any(rule.get("action") == "SCMP_ACT_ALLOW" and KEYRINGS & set(rule.get("names") or ()) for rule in rules)


def without_keyrings(profile: Any) -> Any:
    """`profile` without the rules that allow these calls, so that its default action, an error, is taken."""
    rules = [
        {**rule, "names": [name for name in rule["names"] if name not in KEYRINGS]}
        if rule.get("action") == "SCMP_ACT_ALLOW"
        else rule
        for rule in profile["syscalls"]
    ]
    return {**profile, "syscalls": [rule for rule in rules if rule["names"]]}

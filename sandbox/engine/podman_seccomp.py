"""The system call filter of a hardened container of Podman: the engine's own one, without calls that no debugger makes.

Docker's filter refuses the kernel's keyrings. Podman's gives them out (seccomp.json in containers/common), because a
container has a session keyring of its own. The keyring of its user is another thing: on a rootful engine it is the
caller's, and has, for example, the Kerberos tickets of `KEYRING:persistent`. The other calls are refused by Podman's
filter too; a site's `/etc/containers/seccomp.json` may allow them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.host import decode, paths
from sandbox.host.files import write_atomically
from sandbox.log import Log

REFUSED: Final = frozenset(
    {
        *("add_key", "keyctl", "request_key"),
        *("bpf", "perf_event_open", "userfaultfd"),
        *("io_uring_enter", "io_uring_register", "io_uring_setup"),
    }
)

_TRUSTED: Final = ("/usr/share/containers/seccomp.json", "/etc/containers/seccomp.json")
"""Where Podman looks for its profile when containers.conf names none."""

_REFUSING: Final = frozenset(
    {"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"}
)
_OF_A_PROFILE: Final = ("defaultAction", "defaultErrnoRet", "architectures", "syscalls")
"""What a profile and the filter in config.json have in common (LinuxSeccomp in the OCI runtime specification)."""

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
        standards: Any = decode.parse_json(Path(standard).read_bytes())
        text = profile(standards)
    except (OSError, decode.DecodeError, KeyError, TypeError, AttributeError) as error:
        _log.info("%s is used as it is: %s", standard, error)
        return standard
    return kept(text)


def kept(text: bytes) -> str:
    """The path of a file of this user with the profile `text`."""
    ours = paths.runtime_dir() / "seccomp.json"
    try:
        if ours.read_bytes() == text:
            return str(ours)
    except OSError:
        pass
    write_atomically(ours, text, mode=0o600)
    return str(ours)


def filters(made: Mapping[str, Any]) -> bool:
    """Whether the filter in a runtime's config.json (linux.seccomp) refuses what it does not name."""
    return made.get("defaultAction") in _REFUSING


def allowed(made: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of `REFUSED` that such a filter lets a container call, with any arguments."""
    rules = made.get("syscalls") or ()
    let = {name for rule in rules if rule.get("action") not in _REFUSING for name in rule.get("names") or ()}
    return tuple(sorted(REFUSED if not filters(made) else REFUSED & let))


def profile(made: Mapping[str, Any]) -> bytes:
    """A profile from another one, or from a filter in config.json, that does not allow `REFUSED`.

    Its default action, an error, is taken for them.
    """
    rules = [
        rule
        if rule.get("action") in _REFUSING
        else {**rule, "names": [name for name in rule["names"] if name not in REFUSED]}
        for rule in made["syscalls"]
    ]
    known = {key: value for key, value in made.items() if key in _OF_A_PROFILE or key == "archMap"}
    return json.dumps({**known, "syscalls": [rule for rule in rules if rule["names"]]}).encode()

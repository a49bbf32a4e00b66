"""Files of a Podman service that this process cannot read or write, because they are another host's or another user's.

Who may ask a service for containers may have any file of its user in one. So the file that the runtime was given for a
case (config.json) is read by a container that has nothing else, and a system call filter is written to a volume of the
service. The files are the engine's own user's, which is uid 0 in a container, so that neither needs a privilege.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

_FILE: Final = "seccomp.json"
_CONFIG: Final = "/config.json"
_PLACE: Final = "/filter"


def reading(payload: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The request for a container that prints the file `path` of the service, on the image of `payload`."""
    mount = {"type": "bind", "source": path, "destination": _CONFIG, "options": ["ro", "nosuid", "nodev", "noexec"]}
    return {**_alone(payload), "entrypoint": ["cat"], "command": [_CONFIG], "mounts": [mount]}


def writing(payload: Mapping[str, Any], volume: str, text: bytes) -> dict[str, Any]:
    """The request for a container that writes `text` to the volume, in one step."""
    script = f'printf %s "$1" >{_PLACE}/"$2" && mv {_PLACE}/"$2" {_PLACE}/{_FILE}'
    words = ["-c", script, "sh", text.decode(), secrets.token_hex(8)]
    return {
        **_alone(payload),
        "entrypoint": ["sh"],
        "command": words,
        "volumes": [{"Name": volume, "Dest": _PLACE, "Options": ["nosuid", "nodev", "noexec"]}],
    }


def volume_name(version: str) -> str:
    """The volume that has the filter made of the one that Podman of this version takes by itself."""
    return "vmbox-seccomp-" + re.sub(r"[^\w.-]", "-", version, flags=re.ASCII)


def path_in(mountpoint: str) -> str:
    """The path of the filter, for the service, in a volume that is at `mountpoint`."""
    return f"{mountpoint}/{_FILE}"


def _alone(payload: Mapping[str, Any]) -> dict[str, Any]:
    """As hardened as a case, without what a case has of the host."""
    own: dict[str, Any] = {"name": None, "remove": False, "user": "0:0", "groups": [], "mounts": [], "work_dir": "/"}
    return {key: value for key, value in {**payload, **own}.items() if key != "seccomp_profile_path"}

"""containers.conf of the Podman service that vmbox starts. Nothing else of the host's and the user's applies there.

Storage and registries have files of their own, and stay what they are.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sandbox.host import checks, decode

_KEPT: Final = {
    "engine": (
        *("cgroup_manager", "compression_format", "conmon_path", "database_backend", "env", "events_logger"),
        *(
            "helper_binaries_dir",
            "image_copy_tmp_dir",
            "image_parallel_copies",
            "lock_type",
            "no_pivot_root",
            "num_locks",
        ),
        *("retry", "retry_delay", "runtime", "static_dir", "tmp_dir", "volume_path"),
    ),
    "network": ("cni_plugin_dirs", "network_backend", "network_config_dir"),
}
"""Where Podman's programs and its state are, and how it transfers images. Nothing of [containers].

`env` is Podman's own, e.g. the proxy that it pulls through; a request asks for none of it.
"""


def containers_conf(*, rootless: bool) -> str:
    """The text of the file: what the host needs, and where the files of host and user say that things are."""
    tables: dict[str, dict[str, Any]] = {"containers": {}, "engine": {}, "network": {}}
    runtimes: dict[str, Any] = {}
    for path in _files(rootless=rootless):
        found = _read(path)
        for name, keys in _KEPT.items():
            table = tables[name]
            table |= {key: _merged(table.get(key), new) for key, new in _table(found, name).items() if key in keys}
        runtimes |= _table(_table(found, "engine"), "runtimes")
    # Hooks may mount what they like; the implicit directories have some.
    tables["engine"]["hooks_dir"] = []
    tables["engine"]["exit_command_delay"] = 10  # seconds that each exec leaves two conmon processes; default 300
    if checks.hybrid_cgroups() and checks.program("runc"):
        tables["engine"]["runtime"] = "runc"  # crun 1.8: "cgroups in hybrid mode not supported"
    if not Path("/run/systemd/system").is_dir():
        tables["engine"]["cgroup_manager"] = "cgroupfs"  # the default needs systemd
    if not rootless and not _has_sys_resource():
        # Rootful Podman raises these to the kernel's maximum, else "setrlimit … Operation not permitted".
        limits = {"nofile": resource.getrlimit(resource.RLIMIT_NOFILE)[1]}
        # The service lowers its own limit to pid_max (Podman 4.3), and cannot raise it again.
        pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = pid_max if processes == resource.RLIM_INFINITY else min(pid_max, processes)
        tables["containers"]["default_ulimits"] = [f"{name}={hard}:{hard}" for name, hard in limits.items()]
    return _toml({**tables, "engine.runtimes": runtimes})


def _files(*, rootless: bool) -> Iterator[Path]:
    """Those that Podman would read, in its order: later ones go before."""
    if given := os.environ.get("CONTAINERS_CONF"):
        yield Path(given)
    else:
        etc = Path("/etc/containers")
        yield Path("/usr/share/containers/containers.conf")
        yield etc / "containers.conf"
        yield from sorted((etc / "containers.conf.d").glob("*.conf"))
        if rootless:
            yield etc / "containers.rootless.conf"
            yield from sorted((etc / "containers.rootless.conf.d").glob("*.conf"))
            yield from sorted((etc / "containers.rootless.conf.d" / str(os.getuid())).glob("*.conf"))
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "containers"
        yield home / "containers.conf"
        yield from sorted((home / "containers.conf.d").glob("*.conf"))
    if over := os.environ.get("CONTAINERS_CONF_OVERRIDE"):
        yield Path(over)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return decode.read_toml(path)
    except (OSError, decode.DecodeError):
        return {}


def _table(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = found.get(name)
    return table if isinstance(table, dict) else {}


def _merged(before: object, new: object) -> object:
    """The value of two files. A list may end in {append=true}."""
    if not isinstance(new, list):
        return new
    kept = before if isinstance(before, list) and {"append": True} in new else []
    return kept + [one for one in new if not isinstance(one, dict)]


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Strings, numbers and lists of them are the same in JSON."""
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join([*lines, ""])


def _has_sys_resource() -> bool:
    cap_sys_resource = 24
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> cap_sys_resource & 1)
    return True

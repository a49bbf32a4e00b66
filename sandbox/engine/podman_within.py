"""A container of Podman, as it is seen by its own first process.

For a service whose config.json cannot be read: one of another host, or root's for a user who is not root. A container
that differs from the one asked for by its program alone looks around in itself, before the dump is given to one.
What it cannot see is what the system call filter contains, and what a hook of the engine did outside of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.engine import created
from sandbox.engine.created import Created
from sandbox.errors import EngineFailed

ARGV: Final = (
    "sh",
    "-c",
    """
part() { printf '\\n@%s\\n' "$1"; }
part pid; echo $$
part status; cat /proc/$$/status
part namespaces; for n in cgroup ipc net pid uts; do echo "$n $(readlink /proc/$$/ns/$n)"; done
part interfaces; cat /proc/net/dev
part mounts; cat /proc/$$/mountinfo
part devices; ls /dev
part limits; cat /proc/$$/limits
part score; cat /proc/$$/oom_score_adj
part kcore; if [ -s /proc/kcore ]; then echo seen; fi
part filter; if command -v setarch >/dev/null && setarch "$(uname -m)" -R true 2>/dev/null; then echo none; fi
part environ; cat /proc/$$/environ
""",
)
"""Of what every image has. The default filters of engines refuse personality(ADDR_NO_RANDOMIZE), which needs no
privilege otherwise (seccomp.json in containers/common)."""

_HOSTS: Final = {
    "cgroup": 0xEFFFFFFB,
    "ipc": 0xEFFFFFFF,
    "net": 0xEFFFFFF9,
    "pid": 0xEFFFFFFC,
    "uts": 0xEFFFFFFE,
}
"""Inode numbers of a kernel's first namespaces (include/linux/proc_ns.h); that of net was any before Linux 6.18."""

_KERNELS_OWN: Final = frozenset({"proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2"})
_DEVICES: Final = frozenset({"full", "null", "random", "tty", "urandom", "zero"})
_IN_DEV: Final = _DEVICES | {"console", "core", "fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"}
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class _Mount:
    device: str
    root: str
    """The path in its file system."""
    target: str
    options: frozenset[str]
    kind: str


def parse(answer: bytes) -> dict[str, str]:
    """What `ARGV` printed, by the names of its parts. Raises `EngineFailed` if it did not answer."""
    words = re.split(r"^@([a-z]+)\n", answer.decode(errors="surrogateescape"), maxsplit=11, flags=re.MULTILINE)
    seen = dict(zip(words[1::2], words[2::2], strict=True))
    if "environ" not in seen:
        raise EngineFailed(
            "Podman's container says nothing of itself, so that a case cannot be seen to be as isolated as promised",
            hint="use a service of your own: --engine podman",
        )
    return seen


def refined(
    made: Created,
    seen: Mapping[str, str],
    *,
    hidden: Iterable[str],
    own_files: Iterable[str],
    own_mounts: Iterable[str],
    local: bool,
    cgroup_namespaces: bool,
) -> Created:
    """What Podman's inspection says, and the container itself. `hidden`: places that were covered.

    `own_files` and `own_mounts` are in every container. `local`: whether it is on this host.
    """
    status = dict(re.findall(r"^(\w+):\s*(.*)$", seen["status"], re.MULTILINE))
    mounts = {mount.target: mount for mount in _mounts(seen["mounts"])}
    known = made.binds.keys() | made.tmpfs.keys() | set(hidden)
    own = frozenset(own_mounts), frozenset(own_files)
    strangers = [
        one.target for one in mounts.values() if one.target not in known and not _is_own(one, mounts.get("/"), *own)
    ]
    devices = sorted(set(seen["devices"].split()) - _IN_DEV)
    capabilities = {f"{int(bits, 16):#x}" for name, bits in status.items() if name.startswith("Cap") and int(bits, 16)}
    shared = [name for name in _shared(seen, local=local) if name != "cgroup" or cgroup_namespaces]
    interfaces = {line.partition(":")[0].strip() for line in seen["interfaces"].splitlines() if ":" in line}
    if "net" in shared or (made.network == "none" and interfaces - {"lo"}):
        made = dataclasses.replace(made, network=f"one with {', '.join(sorted(interfaces))}")
    filtered = status.get("Seccomp") == "2" and "none" not in seen["filter"].split()
    return dataclasses.replace(
        made,
        binds={target: (source, _has(mounts, target, "ro")) for target, (source, _) in made.binds.items()
               if target in mounts},
        tmpfs={target: frozenset(one for one in options if one not in _FLAGS or _has(mounts, target, one))
               for target, options in made.tmpfs.items()},
        strangers=(*made.strangers, *(one for one in strangers if one not in made.strangers)),
        devices=(*made.devices, *(f"/dev/{name}" for name in devices if f"/dev/{name}" not in strangers)),
        shared=tuple(dict.fromkeys([*made.shared, *(name for name in shared if name != "net")])),
        capabilities=made.capabilities | capabilities,
        seccomp=filtered,
        no_new_privileges=status.get("NoNewPrivs") == "1",
        read_only=made.read_only and _has(mounts, "/", "ro"),
        masked="seen" not in seen["kcore"].split() or "/proc/kcore" in mounts,
        spared=made.spared or int(seen["score"].strip() or 0) < 0,
        environment=created.environment(one for one in seen["environ"].rstrip("\n").split("\0") if one),
        ulimits={**made.ulimits, **_limits(seen["limits"])},
    )  # fmt: skip


_FLAGS: Final = frozenset({"nosuid", "nodev", "noexec"})


def _has(mounts: Mapping[str, _Mount], target: str, option: str) -> bool:
    return target in mounts and option in mounts[target].options


def _mounts(text: str) -> Iterator[_Mount]:
    """The lines of mountinfo (proc_pid_mountinfo(5))."""
    for line in text.splitlines():
        words = line.split(" ")
        if "-" not in words:
            continue
        kind = words[words.index("-") + 1]
        root, target = (_ESCAPED.sub(lambda found: chr(int(found[1], 8)), word) for word in words[3:5])
        yield _Mount(words[2], root, target, frozenset(words[5].split(",")), kind)


def _is_own(mount: _Mount, root: _Mount | None, own_mounts: frozenset[str], own_files: frozenset[str]) -> bool:
    """Whether engine and runtime make this one in every container, of the kernel's or of files of its own."""
    target = mount.target
    if target == "/" or (mount.kind in _KERNELS_OWN and target in own_mounts):
        return True
    if target.startswith(("/proc/", "/sys/")):  # what is hidden, or read-only
        return mount.kind in _KERNELS_OWN or (mount.kind == "devtmpfs" and mount.root == "/null")
    if target.startswith("/dev/"):  # rootless: those of the host
        name = target.removeprefix("/dev/")
        return (mount.kind in {"devtmpfs", "tmpfs"} and name in _DEVICES and mount.root == f"/{name}") or (
            mount.kind == "devpts" and name == "console"
        )
    if target.startswith("/etc/crypto-policies/"):  # on a host in FIPS mode, from another place of the image
        return (root is not None and mount.device == root.device) or "/userdata/" in mount.root
    return target in own_files and "/userdata/" in mount.root


def _shared(seen: Mapping[str, str], *, local: bool) -> Iterator[str]:
    if seen["pid"].strip() != "1":
        yield "pid"
    for name, number in re.findall(r"^(\w+) \w+:\[(\d+)\]$", seen["namespaces"], re.MULTILINE):
        hosts = {_HOSTS[name]}
        if local:
            hosts.add(Path(f"/proc/self/ns/{name}").stat().st_ino)
        if int(number) in hosts:
            yield name


def _limits(text: str) -> dict[str, int]:
    """Hard limits of priority: all that is judged without the engine's word."""
    names = {"Max nice priority": "nice", "Max realtime priority": "rtprio", "Max address space": "as"}
    found: dict[str, int] = {}
    for line in text.splitlines():
        for words, name in names.items():
            if line.startswith(words):
                hard = line.removeprefix(words).split()[1]
                found[name] = int(hard) if hard.isdigit() else -1
    return found

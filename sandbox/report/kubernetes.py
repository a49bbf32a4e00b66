"""A Kubernetes Job that opens a dump with the dump's self-contained image, and the answers that it leaves.

The image contains debuggers and vmlinux but not vmbox, and perhaps no Python. So the Job gives the commands of a report
to the debugger that would make it, or to the next one where that does not come up. A shell script writes the output and
a plain page of it to the output volume, each complete or not at all. `vmbox report VMCORE --answers FILE` makes the
report.
A pod always has a network, unlike a case. The NetworkPolicy blocks it if the cluster's network plugin enforces such.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final
from xml.sax.saxutils import escape

from sandbox.case import self_contained
from sandbox.case.places import VMLINUX
from sandbox.debugger import DEBUGGERS, DEFAULT, Debugger
from sandbox.debugger.protocol import VMCOREINFO
from sandbox.dump.vmcoreinfo import text_of, told_place
from sandbox.errors import ConfigurationError, DumpUnreadable, UsageError
from sandbox.model import CommandStatus, KernelPlace, Vmcore
from sandbox.profiles import select, wheels
from sandbox.profiles.doubts import doubts
from sandbox.remote import described
from sandbox.render import visible
from sandbox.report.bounded_answer import PER_ANSWER, PER_REPORT
from sandbox.report.causes import explain
from sandbox.report.collect import COMMANDS, CommandOutputs, ExternalOutput, from_external
from sandbox.session.choice import instead_of
from sandbox.session.script import BeforeMark
from sandbox.version import __version__

LABEL: Final = "vmbox.dev/kernel"
"""Label of the Job and its pod; the value is the beginning of the build-id. Values with characters that a label may not
have are annotations."""

_DUMPS: Final = PurePosixPath("/case/dumps")
_OUTPUT: Final = PurePosixPath("/case/output")
_ANSWERS: Final = PurePosixPath("/case/answers")
"""A directory of the pod's own, where crash writes: a dump that took it over must not change others' reports."""

_PAGE: Final = r"""page() {
    printf '%s\n' "$HEAD"
    tr -d '\000-\010\013-\037\177' | sed -n \
        -e 's/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g' \
        -e "s,^$TOKEN begin \\(bt -l\\)$,<details open><summary>\\1</summary><pre>," \
        -e "s,^$TOKEN begin \\(.*\\)$,<details><summary>\\1</summary><pre>," \
        -e "s,^$TOKEN end$,</pre></details>," \
        -e "/^$TOKEN script /d" \
        -e '/^<details/,/^<.pre>/p'
}
"""
"""Makes a page of the answers on standard input, each folded. Leaves out the text between answers."""

_SCRIPT: Final = """\
set -u
by_line=; if command -v stdbuf >/dev/null; then by_line='stdbuf -oL'; fi
ask() {
    printf '%s by %s\\n' "$TOKEN" "$1" >"$ANSWERS"
    questions=$2; shift 2
    printf '%s\\n' "$questions" | $by_line "$@" >>"$ANSWERS" 2>&1
    grep -q "^$TOKEN end" "$ANSWERS" || { tail -n 20 "$ANSWERS" >&2; return 1; }
}
"""
"""What asks a debugger. Lines with a token enclose each answer; the dump cannot contain the random token."""

_COPY: Final = """set -u
if [ ! -f "$ANSWERS" ] || [ -L "$ANSWERS" ]; then echo "$ANSWERS is not a regular file" >&2; exit 1; fi
cp "$ANSWERS" "$OUTPUT.part"
page <"$OUTPUT.part" >"$PAGE.part" && mv "$PAGE.part" "$PAGE"
mv "$OUTPUT.part" "$OUTPUT"
"""
"""What then puts the answers on the volume, without the dump. The name is crash's to choose: no link is followed."""

_STYLE: Final = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:1rem auto;"
    "padding:0 1rem;overflow-wrap:anywhere}summary{cursor:pointer;font-family:monospace}pre{overflow:auto}"
    "@media print{pre{white-space:pre-wrap}}"
)


_NO_TEXT: Final = re.compile(
    r"[-+]?(?:\.[0-9_]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?0[xXoObB][0-9a-fA-F_]+|[yYnN]"
)
"""What PyYAML, which knows YAML 1.1, writes without quotes, and other parsers take for a number or a truth value: the
beginning of a build-id can be 1234567e8901.
"""


_QUANTITY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(m|k|[KMGTP]i|[MGTP]|)")
_UNITS: Final[Mapping[str, float]] = (
    {"m": 0.001, "": 1, "k": 10**3}
    | {unit: 1000**power for power, unit in enumerate("MGTP", 2)}
    | {f"{unit}i": 1024**power for power, unit in enumerate("KMGTP", 1)}
)
"""Of quantities, as docs.kubernetes.io has them under "Quantity", without E and exponents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Settings of the Job that depend on the cluster."""

    dumps: str = "vmcores"
    """The volume claim with the dump; mounted read-only."""
    path: str | None = None
    """The dump's path in it; None: the dump's file name."""
    output: str = "vmbox-reports"
    """The volume claim for the answers."""
    namespace: str | None = None
    registry: str | None = None
    """HOST[:PORT][/PATH]; None: the nodes already have the image, under its local name."""
    memory: str = "8Gi"
    cpus: str = "2"
    seconds: int = 3600
    """Time limit of the Job."""
    keep: int = 86400
    """Seconds for which the finished Job is kept."""
    user: int = 0
    """A uid that may read the dump: kdump's files are root's, with mode 0600."""
    kind: str = "job"
    """job or pod. Podman before 4.7 can run only a pod."""


def manifests(vmcore: Vmcore, wanted: JobOptions, *, token: str | None = None) -> list[dict[str, Any]]:
    """The Job (or Pod) and the NetworkPolicy for a dump.

    Raises `ConfigurationError` for a dump of several files, and `UsageError` for numbers that Kubernetes has not.
    """
    memory, cpus = _quantity("memory", wanted.memory), _quantity("cpus", wanted.cpus)
    if memory < 1 << 20:
        raise UsageError(f"memory {wanted.memory}: crash needs more", hint="with a unit: 8Gi, 8G")
    if cpus < 0.001:
        raise UsageError(f"cpus {wanted.cpus}: there must be some", hint="2, 0.5 or 500m")
    for name, number in (("timeout", wanted.seconds), ("ttl", wanted.keep), ("user", wanted.user)):
        if not 0 <= number < 1 << 31:
            raise UsageError(f"{name} {number} is no number below 2147483648")
    if len(vmcore.files) > 1:
        raise ConfigurationError(
            f"{vmcore.path} consists of {len(vmcore.files)} files", hint="makedumpfile --reassemble joins them"
        )
    ref = self_contained.reference(vmcore)
    key = ref.rpartition(":")[2][:12]
    name = f"vmbox-{key}-{_dns(vmcore.path.name)}".rstrip("-")[:60].rstrip("-")
    labels = {"app.kubernetes.io/name": "vmbox", LABEL: key}
    about: dict[str, Any] = {"name": name, "labels": labels, "annotations": _annotations(vmcore)}
    if wanted.namespace is not None:
        about["namespace"] = wanted.namespace
    pod = _pod(
        image=self_contained.remote_reference(ref, wanted.registry) if wanted.registry else ref,
        pull="IfNotPresent" if wanted.registry else "Never",
        dump=_DUMPS / (wanted.path or vmcore.path.name).lstrip("/"),
        output=_OUTPUT / name,
        head=_head(vmcore),
        token=token or secrets.token_hex(16),
        wanted=wanted,
        debuggers=_debuggers(vmcore),
        place=told_place(vmcore),
        vmcoreinfo=text_of(vmcore.vmcoreinfo),
    )
    if wanted.kind == "pod":
        return [{"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": pod}]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": about,
        "spec": {
            "backoffLimit": 2,
            "activeDeadlineSeconds": wanted.seconds,
            "ttlSecondsAfterFinished": wanted.keep,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {key: value for key, value in about.items() if key != "annotations"},
        "spec": {"podSelector": {"matchLabels": labels}, "policyTypes": ["Ingress", "Egress"]},
    }
    return [policy, job]


def _debuggers(vmcore: Vmcore) -> list[Debugger]:
    """The debuggers of the image that know the kernel, in the order of a report; else the one that has no ceiling.

    By what the profile says of its image: nothing asks an engine for it here.
    """
    profile = select(vmcore).crash_from
    versions = {DEFAULT.name: profile.crash.version}
    quick = instead_of(DEFAULT)
    if quick.name in profile.image.debuggers:
        versions[quick.name] = wheels.load().version
    doubted = doubts(profile, versions, vmcore)
    there = [one for one in (quick, DEFAULT) if one.name in versions]
    return [one for one in there if one.name not in doubted] or there[:1]


def _questions(debugger: Debugger, token: str) -> str:
    """What is put on the debugger's standard input: each command of a report between two lines that it echoes."""
    mode, lines = debugger.start_modes[0], []
    for command in COMMANDS:
        script = debugger.question(command)
        asked = debugger.line(command)
        if script is not None:
            asked = debugger.script(command, script, (), f"{token} script ") or asked
        lines += [
            debugger.echo(f"{token} begin {command}".encode(), mode),
            asked,
            debugger.echo(f"{token} end".encode(), mode),
        ]
    return b"\n".join(lines).decode()


def _shell_words(debugger: Debugger, place: KernelPlace | None) -> str:
    """The command line on the dump, which is the script's first argument."""
    dump = "$1"
    words = debugger.told(debugger.session_argv(VMLINUX, [dump], debugger.start_modes[0]), place)
    return " ".join(f'"{word}"' if word == dump else shlex.quote(word) for word in words)


def _annotations(vmcore: Vmcore) -> dict[str, str]:
    known = {
        "dump": described.name(vmcore.path),
        "release": vmcore.release,
        "build-id": vmcore.build_id,
        "panic": vmcore.panic,
    }
    return {f"vmbox.dev/{name}": value for name, value in known.items() if value}


def _head(vmcore: Vmcore) -> str:
    """The part of the page above the answers: what is known of the dump without crash."""
    words = {
        "Kernel": vmcore.release,
        "Panic": vmcore.panic,
        "Cause": explain(vmcore.cause),
        "Crashed": vmcore.crash_time and f"{vmcore.crash_time:%Y-%m-%d %H:%M:%S} UTC",
        "Machine": vmcore.hardware,
        "Build-ID": vmcore.build_id,
    }
    name, facts = _text(vmcore.path.name), [(what, _text(str(value))) for what, value in words.items() if value]
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>',
            f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>',
            f"<h1>{name}</h1>",
            *(f"<p><b>{what}:</b> {value}</p>" for what, value in facts),
            f"<p><small>vmbox {__version__}; charts, tables and signature: vmbox report --answers</small></p>",
            "<h2>What the debugger answered</h2>",
        )
    )


def _text(value: str) -> str:
    # Kubernetes expands $(NAME) in a variable's value.
    return escape(visible(value.encode(errors="backslashreplace").decode()), {"\n": " ", "$": "&#36;"})


def _literal(value: str) -> str:
    """`value` where Kubernetes expands $(NAME): in commands and variables. Two dollars are one there.

    See "Define Dependent Environment Variables" of docs.kubernetes.io.
    """
    # Other dollars stay: they are the same there, and engines that expand nothing read them, too.
    return value.replace("$", "$$") if "$(" in value or "$$" in value else value


def _quantity(name: str, text: str) -> float:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise UsageError(f"{name} {text!r} is no quantity of Kubernetes", hint="8Gi, 8G, 500M; of CPUs 2, 0.5 or 500m")
    return float(found[1]) * _UNITS[found[2]]


def _dns(text: str) -> str:
    """`text` with only the characters of an object's name (RFC 1123)."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _pod(
    *,
    image: str,
    pull: str,
    dump: PurePosixPath,
    output: PurePosixPath,
    head: str,
    token: str,
    wanted: JobOptions,
    debuggers: Sequence[Debugger],
    place: KernelPlace | None,
    vmcoreinfo: str,
) -> dict[str, Any]:
    environment = {
        "HOME": "/scratch",
        "TMPDIR": "/tmp",  # noqa: S108 - in the container
        "LC_ALL": "C.UTF-8",
        "LESSSECURE": "1",
        "ANSWERS": str(_ANSWERS / "answers"),
        "TOKEN": token,
    }
    places = {"OUTPUT": f"{output}.answers", "PAGE": f"{output}.html", "HEAD": head}
    questions = {one.name.upper(): _questions(one, token) for one in debuggers}
    asking = " || ".join(f'ask {one.name} "${one.name.upper()}" {_shell_words(one, place)}' for one in debuggers)
    told = place is not None
    if told:
        questions["VMCOREINFO"] = _literal(vmcoreinfo)
        asking = f'printf %s "$VMCOREINFO" >{VMCOREINFO}\n{asking}'
    common = {
        "image": image,
        "imagePullPolicy": pull,
        "workingDir": "/scratch",
        "resources": {
            "limits": {"memory": wanted.memory, "cpu": wanted.cpus},
            # No request is above its limit.
            "requests": {
                "memory": "1Gi" if _quantity("memory", wanted.memory) >= 1 << 30 else wanted.memory,
                "cpu": "1" if _quantity("cpus", wanted.cpus) >= 1 else wanted.cpus,
            },
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
    }
    memory = [
        {"name": "scratch", "mountPath": "/scratch"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the container
    ]
    crash = {
        "name": "crash",
        "command": ["/bin/sh", "-c", f"{_SCRIPT}{asking}\n", "vmbox", _literal(str(dump))],
        "env": _variables(environment | questions),
        **common,
        "volumeMounts": [
            {"name": "dumps", "mountPath": str(_DUMPS), "readOnly": True},
            {"name": "answers", "mountPath": str(_ANSWERS)},
            *([{"name": "told", "mountPath": str(VMCOREINFO.parent)}] if told else ()),
            *memory,
        ],
    }
    page = {
        "name": "page",
        "command": ["/bin/sh", "-c", _PAGE + _COPY, "vmbox"],
        "env": _variables(environment | places),
        **common,
        "volumeMounts": [
            {"name": "answers", "mountPath": str(_ANSWERS), "readOnly": True},
            {"name": "output", "mountPath": str(_OUTPUT)},
            *memory,
        ],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsUser": wanted.user, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [crash],
        "containers": [page],
        "volumes": [
            {"name": "dumps", "persistentVolumeClaim": {"claimName": wanted.dumps, "readOnly": True}},
            {"name": "output", "persistentVolumeClaim": {"claimName": wanted.output}},
            {"name": "answers", "emptyDir": {"sizeLimit": "1Gi"}},
            *([{"name": "told", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}] if told else ()),
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}},
        ],
    }


def _variables(environment: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in environment.items()]


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """The manifests for `kubectl apply -f -` and `podman kube play -`."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines as blocks, and no references, so that people can read the result."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - whatever it is
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else "'" if _NO_TEXT.fullmatch(value) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, explicit_start=True, width=120)


def read_answers(file: Path) -> CommandOutputs:
    """Read the answers that a Job left on its output volume. Raises `DumpUnreadable` if the file has none."""
    try:
        with file.open("rb") as answers:
            said = answers.read(PER_REPORT)
    except OSError as error:
        raise DumpUnreadable(f"{file}: {error.strerror}") from error
    found = dict(_answers(said))
    if not found:
        raise DumpUnreadable(
            f"{file} has no answers of crash", hint="vmbox kube VMCORE prints the Job that leaves them"
        )
    case = {
        "profile": "",
        "engine": "kubernetes",
        "proof": "the image is of the dump's build",
        "debugger": _asked(said).name,
        "reason": "it was asked in the Job",
    }
    return from_external(found, case=case)


def _asked(said: bytes) -> Debugger:
    """The debugger whose answers these are."""
    found = re.match(rb"[0-9a-f]{32} by (\w+)\n", said)
    return DEBUGGERS.get(found[1].decode(), DEFAULT) if found else DEFAULT


def _answers(said: bytes) -> Iterator[tuple[str, ExternalOutput]]:
    start = re.search(rb"(?m)^([0-9a-f]{32}) begin ", said)
    if start is None:
        return
    token, debugger = start[1], _asked(said)
    whole = re.compile(rb"(?ms)^%s begin ([^\n]*)\n(.*?)(^%s end$|\Z)" % (token, token))
    for found in whole.finditer(said, start.start()):
        command, output = found[1].decode(errors="backslashreplace"), found[2][:PER_ANSWER]
        if command not in COMMANDS:
            continue
        complaints, kept = debugger.complaints(command, ""), bytearray()
        script = BeforeMark(token + b" script ", kept.extend)
        script(output)
        complaints.feed(output)
        if not found[3]:
            status, errors = CommandStatus.DIED, b""
        elif debugger.question(command) is not None:
            status, errors = script.ended()
        else:
            status, errors = CommandStatus.ERROR if complaints.found() else CommandStatus.OK, b""
            kept[:] = output
        yield command, ExternalOutput(status=status, output=(kept + errors).decode(errors="backslashreplace"))

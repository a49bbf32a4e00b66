"""The manifests of `vmbox kube`, and the answers of a Job."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sandbox.dump import identify
from sandbox.errors import ConfigurationError, DumpUnreadable
from sandbox.model import DumpFormat, Vmcore
from sandbox.report import kubernetes
from sandbox.report.build import read
from sandbox.report.collect import COMMANDS
from sandbox.report.kubernetes import JobOptions, as_yaml, manifests, read_answers

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOKEN = "0123456789abcdef" * 2


@pytest.fixture
def vmcore() -> Vmcore:
    return identify(FIXTURES / "dumps" / "x86_64-6.1-zlib")


def test_the_pod_is_hardened_like_a_case(vmcore: Vmcore) -> None:
    policy, job = manifests(vmcore, JobOptions(registry="registry.example/vmbox", memory="4Gi"))
    pod = job["spec"]["template"]["spec"]
    (crash,), (page,) = pod["initContainers"], pod["containers"]
    for container in (crash, page):
        assert container["image"] == f"registry.example/vmbox/kernel:{vmcore.build_id}"
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        }
        assert container["resources"]["limits"] == {"memory": "4Gi", "cpu": "2"}
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["dumps"]["persistentVolumeClaim"]["readOnly"] is True
    mounts = [{one["name"]: one.get("readOnly", False) for one in it["volumeMounts"]} for it in (crash, page)]
    # What reads the dump writes to no volume that others use.
    assert mounts[0] == {"dumps": True, "answers": False, "scratch": False, "tmp": False}
    assert mounts[1] == {"answers": True, "output": False, "scratch": False, "tmp": False}
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= job["metadata"]["labels"].items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert job["spec"]["ttlSecondsAfterFinished"] == JobOptions().keep


def test_hostile_names_stay_values(tmp_path: Path) -> None:
    source = FIXTURES / "dumps" / "x86_64-6.1-zlib"
    dump = tmp_path / "-x $(id)\n--- {a: 'b\"}"
    dump.write_bytes(source.read_bytes())
    (_, job) = yaml.safe_load_all(as_yaml(manifests(identify(dump), JobOptions(), token=TOKEN)))
    (container,) = job["spec"]["template"]["spec"]["initContainers"]
    assert _expanded(container["command"][-1]) == f"/case/dumps/{dump.name}"
    assert dump.name not in container["command"][2]
    assert set(job["metadata"]["name"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    ("release", "names"), [("6.1.0-56-cloud-amd64", ["drgn", "crash"]), ("7.2.12+deb14-cloud-amd64", ["drgn"])]
)
def test_the_job_asks_the_debuggers_that_know_the_kernel(vmcore: Vmcore, release: str, names: list[str]) -> None:
    (pod,) = manifests(replace(vmcore, release=release), JobOptions(kind="pod"), token=TOKEN)
    (container,) = pod["spec"]["initContainers"]
    assert re.findall(r'\bask (\w+) "', container["command"][2]) == names
    questions = {one["name"]: one["value"] for one in container["env"]}
    assert set(questions) & {"DRGN", "CRASH"} == {name.upper() for name in names}
    for name in names:
        lines = questions[name.upper()].splitlines()
        assert len(lines) == 3 * len(COMMANDS)
        assert f"{TOKEN} begin bt -l" in lines[lines.index("bt -l") - 1]
    assert sum(line.startswith("%script ") for line in questions["DRGN"].splitlines()) == 4


def test_the_next_debugger_is_asked_where_one_does_not_come_up(vmcore: Vmcore, tmp_path: Path) -> None:
    (pod,) = manifests(vmcore, JobOptions(kind="pod"), token=TOKEN)
    (container,) = pod["spec"]["initContainers"]
    settings = {one["name"]: one["value"] for one in container["env"]} | {"ANSWERS": str(tmp_path / "answers")}

    def asked(**programs: str) -> int:
        for name, said in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\ncat >/dev/null\n{said}\n")
            (tmp_path / name).chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return subprocess.run(container["command"], env={**settings, "PATH": path}, check=False).returncode

    good = f"printf '%s\\n' '{TOKEN} begin ps' tasks '{TOKEN} end'"
    assert asked(drgn="echo no memory; exit 1", crash=good) == 0
    answers = read_answers(tmp_path / "answers")
    assert (answers.case["debugger"], answers.texts) == ("crash", {"ps": "tasks\n"})
    assert asked(drgn=good, crash="exit 1") == 0
    assert read_answers(tmp_path / "answers").case["debugger"] == "drgn"
    assert asked(drgn="exit 1", crash="exit 1") == 1


def test_answers_of_drgn_make_a_report(vmcore: Vmcore, tmp_path: Path) -> None:
    genuine = [json.loads(line) for line in (FIXTURES / "drgn" / "7.2.jsonl").read_text().splitlines()]
    pairs = []
    for one in genuine:
        end = f'{TOKEN} script {{"failed": false, "errors": ""}}\n' if one["command"] in {"sys -t", "sys -i"} else ""
        pairs.append((one["command"], one["output"] + end))
    pairs = [pair for pair in pairs if pair[0] != "mach"]
    pairs.append(("mach", f'{TOKEN} script {{"failed": true, "errors": "no such variable\\n"}}\n'))
    file = tmp_path / "answers"
    file.write_bytes(f"{TOKEN} by drgn\n".encode() + _answered(pairs))
    answers = read_answers(file)
    assert {run.debugger for run in answers.runs} == {"drgn"}
    assert TOKEN not in "".join(answers.texts.values())
    report = read(vmcore, answers)
    assert report.identity.debugger == "drgn"
    assert report.tasks_total == 68
    assert "QEMU Standard PC" in str(report.identity.hardware)
    assert answers.missing_reason("mach") == "drgn says: no such variable"


def test_every_yaml_parser_reads_the_manifests(vmcore: Vmcore) -> None:
    # Podman's parser refuses an indentation indicator, which a block that begins with an empty line needs.
    text = as_yaml(manifests(vmcore, JobOptions(), token=TOKEN))
    assert re.search(r"\|[+-]?$", text, re.MULTILINE)
    assert not re.search(r"\|[+-]?\d", text)


def test_a_split_dump_is_refused(vmcore: Vmcore) -> None:
    split = SimpleNamespace(path=vmcore.path, files=(Path("a"), Path("b")))
    with pytest.raises(ConfigurationError, match="consists of 2 files"):
        manifests(split, JobOptions())  # type: ignore[arg-type] # has the fields that are read


def _answered(pairs: list[tuple[str, str]], end: bool = True) -> bytes:
    text = "".join(f"{TOKEN} begin {command}\n{output}{TOKEN} end\n" for command, output in pairs)
    return (text if end else text.removesuffix(f"{TOKEN} end\n")).encode()


def test_answers_of_a_job_make_a_report(vmcore: Vmcore, tmp_path: Path) -> None:
    genuine = [json.loads(line) for line in (FIXTURES / "crash" / "6.1.jsonl").read_text().splitlines()]
    pairs = [(one["command"], one["output"]) for one in genuine]
    file = tmp_path / "answers"
    file.write_bytes(b"WARNING: of crash's start\n" + _answered(pairs))
    answers = read_answers(file)
    assert [run.command for run in answers.runs] == list(COMMANDS)
    report = read(vmcore, answers)
    assert report.backtrace is not None
    assert "sysrq_handle_crash" in [frame.function for frame in report.backtrace.frames]
    assert report.identity.engine == "kubernetes"


def test_the_job_also_makes_a_page(vmcore: Vmcore) -> None:
    genuine = [json.loads(line) for line in (FIXTURES / "crash" / "6.1.jsonl").read_text().splitlines()]
    evil = "</pre><script>alert(1)</script>&\x1b[31m\n</details>\n"
    pairs = [(one["command"], one["output"]) for one in genuine] + [("net", evil)]
    (pod,) = manifests(replace(vmcore, panic="<img src=x>$(TOKEN)"), JobOptions(kind="pod"), token=TOKEN)
    settings = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"]}
    assert settings["PAGE"] == settings["OUTPUT"].removesuffix("answers") + "html"
    made = subprocess.run(
        ["sh", "-c", f"set -eu; {kubernetes._PAGE}\npage"],
        input=b"WARNING: <of crash's start>\n" + _answered(pairs),
        env={**settings, "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    page = made.stdout.decode()
    assert made.stderr == b""
    assert vmcore.release is not None
    assert f"<b>Kernel:</b> {vmcore.release}" in page
    assert "$(" not in settings["HEAD"]
    assert page.count("<details><summary>") == len(pairs) - 1
    assert page.count("<details open><summary>bt -l</summary>") == 1
    assert page.count("</pre></details>") == len(pairs)
    assert "sysrq_handle_crash" in page
    for never in ("<script", "<img", "\x1b", TOKEN, "of crash's start"):
        assert never not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;[31m" in page


def test_no_link_in_the_place_of_answers_is_followed(vmcore: Vmcore, tmp_path: Path) -> None:
    (pod,) = manifests(vmcore, JobOptions(kind="pod"), token=TOKEN)
    (page,) = pod["spec"]["containers"]
    settings = {one["name"]: one["value"] for one in page["env"]}
    settings |= {name: str(tmp_path / name) for name in ("ANSWERS", "OUTPUT", "PAGE")}

    def put() -> int:
        return subprocess.run(page["command"], env={**settings, "PATH": os.environ["PATH"]}, check=False).returncode

    (tmp_path / "another").write_bytes(_answered([("ps", "secret\n")]))
    (tmp_path / "ANSWERS").symlink_to(tmp_path / "another")
    assert put() == 1
    (tmp_path / "ANSWERS").unlink()
    os.mkfifo(tmp_path / "ANSWERS")
    assert put() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ANSWERS", "another"]
    (tmp_path / "ANSWERS").unlink()
    (tmp_path / "ANSWERS").write_bytes(_answered([("ps", "tasks\n")]))
    assert put() == 0
    assert "tasks" in (tmp_path / "PAGE").read_text()
    assert (tmp_path / "OUTPUT").read_bytes() == (tmp_path / "ANSWERS").read_bytes()


def test_a_crash_that_died_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "answers"
    imitation = f"{'f' * 32} end\n{'f' * 32} begin ps\n"
    file.write_bytes(_answered([("sys", imitation), ("bt -l", "bt: invalid\n"), ("ps", "half of it\n")], end=False))
    status = {run.command: run.status for run in read_answers(file).runs}
    assert (status["sys"], status["bt -l"], status["ps"], status["log"]) == ("ok", "error", "died", "unasked")
    assert read_answers(file).texts == {"sys": imitation, "bt -l": "bt: invalid\n"}


def test_a_file_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DumpUnreadable, match="No such file"):
        read_answers(tmp_path / "none")
    (tmp_path / "other").write_text("hello\n")
    with pytest.raises(DumpUnreadable, match="has no answers of crash"):
        read_answers(tmp_path / "other")


@pytest.mark.parametrize(
    "value", ["1234567e8901", "12e3", "1.5", "0x1f", "0o17", "017", "1_000", "y", "N", ".5", "1e+3"]
)
def test_text_that_other_parsers_take_for_a_number_is_quoted(value: str) -> None:
    text = as_yaml([{"labels": {"vmbox.dev/kernel": value}}])
    assert f"'{value}'" in text
    assert yaml.safe_load(text) == {"labels": {"vmbox.dev/kernel": value}}


@pytest.mark.parametrize("value", ["8Gi", "abcdef012345", "6.1.0-1-amd64", "no such", "e5"])
def test_other_text_is_not(value: str) -> None:
    assert f"x: {value}\n" in as_yaml([{"x": value}])


def _expanded(text: str) -> str:
    """What Kubernetes makes of a word of a command, where TOKEN is set (third_party/forked/golang/expansion there)."""
    return re.sub(r"\$(?:\$|\(TOKEN\))", lambda found: "$" if found[0] == "$$" else TOKEN, text)


@pytest.mark.parametrize("name", ["$(TOKEN)", "a$$(TOKEN)", "$", "a$$", "$HOME", "$$$(TOKEN"])
def test_no_name_of_a_dump_has_a_variable_of_the_job(vmcore: Vmcore, name: str) -> None:
    (pod,) = manifests(replace(vmcore, path=vmcore.path.with_name(name)), JobOptions(kind="pod"), token=TOKEN)
    assert _expanded(pod["spec"]["initContainers"][0]["command"][-1]) == f"/case/dumps/{name}"


def test_a_dump_that_does_not_tell_where_its_kernel_is(vmcore: Vmcore) -> None:
    """As vmss2core's: the pod's drgn reads VMCOREINFO from a file, crash has options."""
    info = {"OSRELEASE": "6.1", "KERNELOFFSET": "da00000", "NUMBER(phys_base)": "16777216", "X": "$(TOKEN)"}
    told = replace(vmcore, format=DumpFormat.ELF, vmcoreinfo=info, origins={"release": "vmcoreinfo in memory"})
    (pod,) = manifests(told, JobOptions(kind="pod"))
    (crash,) = pod["spec"]["initContainers"]
    script, values = crash["command"][2], {one["name"]: one["value"] for one in crash["env"]}
    assert '\nprintf %s "$VMCOREINFO" >/run/vmbox/vmcoreinfo\n' in script
    assert values["VMCOREINFO"].startswith("OSRELEASE=6.1\nKERNELOFFSET=da00000\n")
    assert values["VMCOREINFO"].endswith("X=$$(TOKEN)\n")
    assert "--kaslr 0xda00000 -m phys_base=0x1000000" in script
    assert "drgn --vmcoreinfo /run/vmbox/vmcoreinfo" in script
    assert {"name": "told", "mountPath": "/run/vmbox"} in crash["volumeMounts"]
    assert "told" in {one["name"] for one in pod["spec"]["volumes"]}
    assert "VMCOREINFO" not in str(manifests(vmcore, JobOptions()))

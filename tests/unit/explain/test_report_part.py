"""The part `fault` of a report: in its JSON by the schema, and first on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from test_fault import log_of, readings
from test_waits import answer_of

from sandbox.case.options import OpenOptions
from sandbox.errors import UsageError
from sandbox.explain import text
from sandbox.explain.model import Fault, SourceFrame
from sandbox.explain.waits import explain
from sandbox.model import Vmcore
from sandbox.report import build, html, write
from sandbox.report.collect import CommandOutputs
from sandbox.report.fault import explain_dump, with_source


@pytest.mark.slow
def test_the_fault_is_the_first_section_and_in_the_json(tmp_path: Path) -> None:
    dump = tmp_path / "vmcore-dmesg.txt"
    dump.write_text("\n".join(log_of("general-protection")) + "\n")
    vmcore = Vmcore(path=dump, format="kdump", size=1, arch="x86_64", release="6.1.0-56-cloud-amd64")
    answers = CommandOutputs(runs=(), texts={}, mode="", case={}, readings=readings("general-protection"))
    report = build.read(vmcore, answers)
    assert report.fault is not None
    page = html.html(report)
    assert page.index("<h2>What happened</h2>") < page.index("<h2>Identity</h2>")
    assert "rdi holds the text &#34;overflow&#34;." in page
    assert '<code class="command">dis -l ffffffff' in page
    made = json.loads(write.as_json(report))
    jsonschema.validate(made, write.schema())
    assert made["fault"]["module"] == "vmbox_demo"
    assert "fault" not in made["missing"]


def test_a_report_without_a_debugger_explains_the_log(tmp_path: Path) -> None:
    dump = tmp_path / "log"
    dump.write_text("\n".join(log_of("bug")) + "\n")
    report = build.make(dump)
    assert report.fault is not None
    assert report.fault.function == "vmbox_check"
    assert "log without its dump" in report.fault.unknown["dump"]
    # There is nothing that a command could be run on.
    assert {one.command for one in report.fault.sentences} == {None}
    quiet = build.read(Vmcore(path=tmp_path / "none", format="log", size=1), None)
    assert quiet.fault is None
    assert quiet.missing["fault"]
    assert quiet.missing["fault"] in html.html(quiet)


def test_what_only_a_dump_has_is_said_once_of_a_log(tmp_path: Path) -> None:
    dump = tmp_path / "log"
    dump.write_text("\n".join(log_of("bug")) + "\n")
    report = build.make(dump)
    page = html.html(report)
    # In the heading, in what `explain` does not know, and once for all that is missing.
    assert page.count("is a log without its dump, which has the rest") == 3
    assert "the task that panicked, all CPUs, blocked tasks, who waits for whom, load and memory, tasks, " in page
    assert '<section id="modules">' not in page
    assert '<a href="#modules">' not in page
    assert '<section id="log">' in page
    # Where something was answered, each section says itself what it lacks.
    answers = CommandOutputs(runs=(), texts={}, mode="", case={}, waits=explain(answer_of("deadlock")))
    whole = html.html(build.read(Vmcore(path=dump, format="kdump", size=1), answers))
    assert '<section id="modules">' in whole


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It was `mov (%rax),<b>`, with `x`.", "It was <code>mov (%rax),&lt;b&gt;</code>, with <code>x</code>."),
        ("A `whole` one and `half", "A <code>whole</code> one and `half"),
        ("none <i>", "none &lt;i&gt;"),
    ],
)
def test_code_in_a_sentence_is_code_on_the_page(text: str, shown: str) -> None:
    assert html.coded(text) == shown


def test_who_waits_is_drawn(tmp_path: Path) -> None:
    vmcore = Vmcore(path=tmp_path / "vmcore", format="log", size=1, arch="x86_64")
    answers = CommandOutputs(runs=(), texts={}, mode="", case={}, waits=explain(answer_of("deadlock")), no_waits=None)
    report = build.read(vmcore, answers)
    page = html.html(report)
    assert '<rect class="hot"' in page
    assert ">vmbox-behind 106</text>" in page
    assert "Deadlock: vmbox-first (PID 104) holds vmbox_outer" in page
    made = json.loads(write.as_json(report))
    jsonschema.validate(made, write.schema())
    assert len(made["waits"]["cycles"]) == 1
    assert "waits" not in made["missing"]
    lacking = build.read(vmcore, CommandOutputs(runs=(), texts={}, mode="", case={}, no_waits="drgn says so"))
    assert lacking.missing["waits"] == "drgn says so"
    assert "drgn says so" in html.html(lacking)


def test_bad_arguments_are_refused_before_a_dump_is_opened(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(log_of("bug")) + "\n")
    with pytest.raises(UsageError, match=r"no\.ko: No such file"):
        explain_dump(log, OpenOptions(), modules=[tmp_path / "no.ko"])
    with pytest.raises(UsageError, match="is neither a directory nor a package of source"):
        explain_dump(log, OpenOptions(), sources=log)
    fault = explain_dump(log, OpenOptions(), sources=tmp_path)
    assert fault is not None
    assert fault.unknown["source"] == "the line of the fault is not known"


def test_source_is_shown_where_the_directory_has_it(tmp_path: Path) -> None:
    frame = SourceFrame(function="f", file="/build/a/b.c", line=2, column=1, inline=False)
    fault = explain_dump_of_bug(tmp_path)
    (tmp_path / "b.c").write_text("one\ntwo\n")
    shown = with_source(replace(fault, frames=(frame,)), tmp_path)
    assert [(one.number, one.fault) for one in shown.source] == [(1, False), (2, True)]
    assert with_source(replace(fault, frames=(frame,)), tmp_path / "none").unknown["source"]


def explain_dump_of_bug(directory: Path) -> Fault:
    log = directory / "log"
    log.write_text("\n".join(log_of("bug")) + "\n")
    fault = explain_dump(log, OpenOptions())
    assert fault is not None
    return fault


def test_what_a_debugger_read_of_a_kernel_that_it_was_not_tried_with_is_marked(tmp_path: Path) -> None:
    doubt = "drgn 0.3.0 was tried with kernels up to 7.3, and this is 7.9.1"
    dump = tmp_path / "vmcore-dmesg.txt"
    dump.write_text("\n".join(log_of("general-protection")) + "\n")
    vmcore = Vmcore(path=dump, format="kdump", size=1, arch="x86_64", release="7.9.1")
    report = build.read(
        vmcore,
        CommandOutputs(
            runs=(),
            texts={},
            mode="",
            case={"debugger": "crash"},
            readings=replace(readings("general-protection"), doubt=doubt),
            waits=explain(answer_of("deadlock"), doubt=doubt),
            no_waits=None,
        ),
    )
    assert report.doubts == (doubt,)
    made = json.loads(write.as_json(report))
    assert made["fault"]["doubt"] == made["waits"]["doubt"] == doubt
    assert made["identity"]["doubt"] is None
    page = html.html(report)
    assert page.count(doubt) == 2
    assert report.fault is not None
    assert report.waits is not None
    for shown in (text.lines(report.fault, None), text.wait_lines(report.waits, None)):
        assert list(shown)[:2] == ["NOT TO BE RELIED ON", f"  {doubt}"]
    # Where the whole report is in doubt for that reason, it is said once, at its top.
    whole = replace(report, identity=replace(report.identity, doubt=doubt))
    assert html.html(whole).count(doubt) == 1
    assert whole.doubts == (doubt,)


@pytest.mark.parametrize("panic", ["hung_task: blocked tasks", "Fatal exception", None])
def test_a_panic_that_a_program_could_have_written_is_called_so(tmp_path: Path, panic: str | None) -> None:
    """Of a log alone: nothing of the kernel's own follows it, as after each oops, and it does not point to that."""
    log = tmp_path / "log"
    lines = [line for line in log_of("general-protection") if "Kernel panic" not in line]
    log.write_text("\n".join([*lines, *([f"[    7.5] Kernel panic - not syncing: {panic}"] if panic else [])]) + "\n")
    fault = explain_dump(log, OpenOptions())
    assert fault is not None
    report = build.make(log)
    if panic == "hung_task: blocked tasks":
        assert fault.unknown["panic"] == report.log_remark
        assert report.log_remark is not None
        assert report.log_remark.startswith("the panic has no call trace, as none has after an oops: a program could")
    else:
        assert "panic" not in fault.unknown
        assert report.log_remark is None

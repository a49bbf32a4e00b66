"""Commands that report: report, triage."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import render
from sandbox.cli.app import command
from sandbox.cli.options import (
    EngineName,
    Force,
    GivenDebuginfo,
    ImageName,
    Json,
    NoDebuginfo,
    OptionalDump,
    Quiet,
    Timeout,
    WithDebugger,
)
from sandbox.errors import NotADump, UsageError, VmboxError, pasteable
from sandbox.host.background import in_background
from sandbox.host.files import STDOUT
from sandbox.remote.naming import named

if TYPE_CHECKING:
    from sandbox.report.model import Report
    from sandbox.triage.table import Index


@command()
def report(
    vmcore: OptionalDump = None,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="OTHER", help="With --compare: the second dump.", show_default=False, parser=named),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where the page goes; report.html by default, - is standard output."
        ),
    ] = None,
    json: Json = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare the crashes of two dumps.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json.")] = False,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="FILE", help="Make it from the answers of a Job of `vmbox kube`; nothing is opened."
        ),
    ] = None,
    timeout: Timeout = 60,
    engine: EngineName = None,
    debugger: WithDebugger = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    no_debuginfo: NoDebuginfo = False,
    quiet: Quiet = False,
) -> None:
    """Look at a crash: one self-contained HTML page, or the same as JSON.

    vmbox report vmcore -o report.html
    vmbox report --compare vmcore.1 vmcore.2
    """
    from sandbox.case.options import OpenOptions
    from sandbox.report import write
    from sandbox.report.build import make
    from sandbox.report.html import html, preload as page_ready

    if schema:
        render.as_json(write.schema())
        return
    if vmcore is None or compare != (other is not None):
        raise typer.BadParameter("give a dump; or two with --compare")
    if not json and other is None:
        # In parallel to crash, because loading the templates takes as long as its answers.
        in_background(page_ready, name="page")
    reporter = render.reporter(quiet=quiet)
    page = output or Path("report.html")
    given = [one for one in (answers, debuginfo) if one is not None]
    if not json or output is not None:
        write.check(page, [vmcore, *given, *_files(vmcore, page)], chosen=output is None)
    options = OpenOptions(
        engine=engine, image=image, debuginfo=debuginfo, force=force, no_debuginfo=no_debuginfo, debugger=debugger
    )
    options.check()
    if answers is None:
        made = make(vmcore, options, reporter, timeout=timeout)
    else:
        from sandbox.case.dumps import identify
        from sandbox.report.build import read
        from sandbox.report.kubernetes import read_answers

        made = read(identify(vmcore), read_answers(answers))
    if other is not None:
        second = make(other, options, reporter, timeout=timeout)
        _doubted(made, second)
        _compared(made, second, json=json)
        return
    read_from = [Path(made.identity.dump)]
    if not json or output is not None:
        # Of a directory, or an archive in it, only now is known which file it is.
        write.check(page, read_from, chosen=output is None)
    if json:
        text = write.as_json(made)
        if output in {None, STDOUT}:
            render.line(render.json_for_terminal(text))
        else:
            write.write(output, text + "\n", evidence=read_from)
    else:
        write.write(page, html(made), evidence=read_from, chosen=output is None)
        if page != STDOUT:
            render.line(page)
    _doubted(made)
    if made.log_remark is not None:
        render.note(f"vmbox: {made.log_remark}")
    if made.problem is not None:
        render.note(f"vmbox: {render.one_line(made.problem)}")
        raise typer.Exit(made.exit_code)


def _doubted(*reports: Report) -> None:
    # Also with -q: what may be false is never given without a word.
    for doubt in dict.fromkeys(doubt for report in reports for doubt in report.doubts):
        render.note(f"vmbox: {doubt}")


def _files(dump: Path, output: Path) -> Sequence[Path]:
    """All files of a dump where `output` is there and could be one of them: a part, or the memory beside its state."""
    from sandbox.dump import identify
    from sandbox.remote.described import url_of

    if output == STDOUT or not output.is_file() or url_of(dump) is not None:
        return ()
    with suppress(VmboxError):  # said when the report is made; it may also be on the engine's host
        return identify(dump, log=False).files
    return ()


def _compared(first: Report, second: Report, *, json: bool) -> None:
    from sandbox.report.compare import compare

    found = compare(first, second)
    if json:
        render.as_json(found)
    else:
        render.line(f"{found.verdict} (likeness {found.likeness:.0%})")
        if found.differences:
            render.table(("", "FIRST", "SECOND"), ((one.what, one.first, one.second) for one in found.differences))
    raise typer.Exit(0 if found.same else 1)


@command()
def triage(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Dumps, directories, sosreports, patterns.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the table and the reports go; triage by default."),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--from-file", metavar="FILE", help="More paths, one a line; - is standard input.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Dumps at a time; by default as many as memory and processors allow."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="URL", help="A Dask cluster that does the work, e.g. tcp://host:8786."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also repeat what an earlier run has finished.")] = False,
    json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of --json.")] = False,
    timeout: Timeout = 60,
    engine: EngineName = None,
    image: ImageName = None,
    debuginfo: GivenDebuginfo = None,
    force: Force = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            "--no-debuginfo",
            help="A first look: fetch no debuginfo, and read each dump by what its kernel has of itself.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Look at many crashes: a report of each, and one table, grouped by what looks like the same bug.

    vmbox triage /var/crash -o triage --quick
    vmbox triage /var/crash -o triage        # continues an interrupted triage, or a quick one with debuginfo

    The exit status is 1 if no debugger opened one of them whole, if one has no report, or if the stack, date, uptime or
    number of tasks that the debugger prints of one is not its kernel's.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.remote.described import refuse_url
    from sandbox.triage import discovery, table
    from sandbox.triage.scheduler import triage as triage_all

    if schema:
        render.as_json(table.schema())
        return
    options = OpenOptions(
        engine=engine,
        image=image,
        debuginfo=debuginfo,
        force=force,
        no_debuginfo=quick,
        no_debuginfo_reason="--quick",
    )
    options.check()
    if output is None:
        output = Path("triage")
        if output.is_symlink():
            raise UsageError(f"{output} is a link, which was not named", hint="choose another directory with -o")
    words = [*(paths or ()), *(discovery.listed(listed) if listed else ())]
    if not words:
        raise typer.BadParameter("give dumps or directories")
    refuse_url(words, "vmbox report URL makes the report of one")
    links: list[Path] = []
    found = discovery.find(words, links)
    if links:
        more = f" and {len(links) - 5} more" if len(links) > 5 else ""
        shown = render.one_line(", ".join(map(str, links[:5])))
        render.note(f"vmbox: not followed, because they lead out of the directory: {shown}{more}")
    if not found:
        hint = (
            f"name them: vmbox triage {' '.join(map(pasteable, links[:5]))}"
            if links
            else "logs are found by their names (dmesg, console, messages, *.log …); name others: vmbox triage FILE…"
        )
        raise NotADump(f"no crash dump is in {', '.join(words[:5])}", hint=hint)
    index = triage_all(
        found,
        output,
        options,
        render.reporter(quiet=quiet),
        jobs=jobs,
        scheduler=scheduler,
        timeout=timeout,
        again=again,
    )
    if json:
        render.line(render.json_for_terminal(table.as_json(index)))
    else:
        _grouped(index)
        render.line(output / "index.html")
    if index.no_debuginfo:
        again_with = "; the same command without --quick reads them with it" if quick else ""
        render.note(f"vmbox: {index.no_debuginfo} of {index.total} were read without debuginfo{again_with}")
    for doubt in dict.fromkeys(row.doubt for row in index.rows if row.doubt is not None):
        render.note(f"vmbox: {doubt}")
    for row in index.rows:
        if row.disagreement is not None:
            render.note(render.one_line(f"vmbox: {row.dump}: {row.disagreement}"))
    if index.partial or index.failed or index.disagreements:
        raise typer.Exit(1)


def _grouped(index: Index) -> None:
    render.table(
        ("DUMPS", "SIGNATURE", "CRASH", "KERNELS"),
        ((str(one.count), one.name, one.title, " ".join(one.kernels)) for one in index.signatures),
    )
    for row in index.rows:
        if row.signature is None and row.problem is None:
            render.note(render.one_line(f"vmbox: {row.dump}: too little is known of it for a signature: {row.title}"))
        if row.problem is not None:
            # Most messages begin with the dump's path.
            said = row.problem if row.problem.startswith(row.dump) else f"{row.dump}: {row.problem}"
            render.note(f"vmbox: {render.one_line(said)}")

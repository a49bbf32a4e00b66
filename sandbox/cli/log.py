"""Commands about the transcripts of cases: log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sandbox import render
from sandbox.cli import completion
from sandbox.cli.app import command
from sandbox.cli.options import Json
from sandbox.debugger import DEFAULT
from sandbox.errors import CaseNotFound
from sandbox.log import without_secrets
from sandbox.remote.naming import named


@command()
def log(
    what: Annotated[
        str | None, typer.Argument(metavar="CASE|VMCORE", show_default=False, autocompletion=completion.transcripts)
    ] = None,
    script: Annotated[bool, typer.Option("--script", help="Print the commands, as input for vmbox run -i.")] = False,
    json: Json = False,
) -> None:
    """Show a case's commands and their output, also after it was closed. Without a case: list the transcripts."""
    from sandbox.session.transcript import find, lines, records

    if what is None:
        _list(json=json)
        return
    here = what
    if ":/" in what:
        from sandbox.remote import described

        here = str(described.known(named(what)))
    try:
        found = find(here, render.reporter(quiet=False))
    except CaseNotFound as error:
        # Not the path that stands for a URL.
        raise CaseNotFound(error.message.replace(here, without_secrets(what)), hint=error.hint) from None
    output = render.Output()
    for path in found:
        if script:
            output(f"# of {next(records(path), {}).get('dump', path)}\n".encode(errors="backslashreplace"))
        for record in lines(path):
            if json:
                render.json_line(record)
            elif "opened" in record:
                output(_header(record).encode(errors="backslashreplace"))
            elif not script:
                output(_shown(record).encode(errors="backslashreplace"))
            elif record.get("tool", DEFAULT.name) == DEFAULT.name:
                output(f"{record['command']}\n".encode(errors="backslashreplace"))


def _list(*, json: bool) -> None:
    from sandbox.session.transcript import case_id, kept_transcripts, records

    rows = []
    for path in kept_transcripts(render.reporter(quiet=False)):
        kept = list(records(path))
        if kept:
            rows.append((case_id(path), str(len(kept)), kept[-1].get("time", ""), kept[0].get("dump", "")))
    columns = ("CASE", "COMMANDS", "LAST", "DUMP")
    if json:
        render.as_json([dict(zip(map(str.lower, columns), row, strict=True)) for row in rows])
    elif rows:
        render.table(columns, rows)
    else:
        render.note("there are no transcripts")


def _header(record: Mapping[str, Any]) -> str:
    """The header as comments, so that the output is also a command file."""
    debuginfo = record.get("debuginfo") or {}
    values = [
        ("opened", record.get("opened")),
        ("dump", record.get("dump")),
        ("kernel", record.get("release")),
        ("crash", f"of {record.get('profile')}, on {record.get('engine')}"),
        ("vmlinux", debuginfo.get("vmlinux")),
        ("agrees", debuginfo.get("proof")),
        ("from", debuginfo.get("origin")),
        ("checked", debuginfo.get("verified")),
        ("incomplete", record.get("incomplete")),
    ]
    return "".join(f"# {name}: {render.visible(str(value))}\n" for name, value in values if value) + "\n"


def _shown(record: Mapping[str, Any]) -> str:
    prompt = f"{record.get('tool', DEFAULT.name)}> "
    more = "[the rest was not kept]\n" if record.get("truncated") else ""
    output = record.get("output", "")
    ending = "" if not output or output.endswith("\n") else "\n"
    head = f"# {record.get('time')}  {record.get('seconds', 0):.3f} s  {record.get('status')}"
    return f"{head}\n{prompt}{record['command']}\n{output}{ending}{more}\n"

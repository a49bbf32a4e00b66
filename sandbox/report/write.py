"""Reports as files: JSON and HTML, written completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from sandbox.errors import unwritable
from sandbox.host.files import check_output, mode_of, refuse_evidence, refuse_planted, write_chosen, write_output
from sandbox.render import plain
from sandbox.report.model import Report

_ELSEWHERE: Final = "choose another place with -o"


def as_json(report: Report) -> str:
    """The report as JSON, by `report.schema.json`."""
    text = json.dumps(plain(report), ensure_ascii=False, indent=1)
    # A path or a command may contain bytes that are not UTF-8.
    return text.encode(errors="backslashreplace").decode()


def schema() -> Mapping[str, Any]:
    """The JSON schema (2020-12) of `as_json`."""
    found: Mapping[str, Any] = json.loads(
        files("sandbox.report").joinpath("report.schema.json").read_text(encoding="utf-8")
    )
    return found


def check(path: Path, evidence: Iterable[Path], *, chosen: bool = False) -> None:
    """Raise what `write` would, as far as that can be told before the report is made, or if `path` is of `evidence`."""
    refuse_evidence(path, evidence)
    try:
        if chosen:
            refuse_planted(path, hint=_ELSEWHERE)
        check_output(path)
    except OSError as error:
        raise unwritable(path, error, hint=_ELSEWHERE) from error


def write(path: Path, text: str, *, evidence: Iterable[Path] = (), chosen: bool = False) -> None:
    """Write `text`, made of `evidence`, to `path`: no reader sees half a file.

    Others may read a new file where they may read all of the evidence. A name that was `chosen` here and not by the
    user is not followed where it is a link. Raises `UsageError` or `NoSpace`.
    """
    mode = mode_of(evidence)
    try:
        if chosen:
            write_chosen(path, text.encode(), mode=mode, hint=_ELSEWHERE)
        else:
            write_output(path, text.encode(), mode=mode)
    except BrokenPipeError:
        raise  # the reader of a FIFO left: as for standard output
    except OSError as error:
        raise unwritable(path, error, hint=_ELSEWHERE) from error

"""How things look on the terminal: text, tables, progress, errors. The only importer of rich."""

from sandbox.render.ending import exit_on_error
from sandbox.render.output import (
    JsonAnswer,
    Output,
    as_json,
    error,
    facts,
    json_for_terminal,
    json_line,
    leave_line,
    line,
    note,
    table,
)
from sandbox.render.progress import reporter
from sandbox.render.text import folded, hanging, one_line, plain, size, visible

__all__ = [
    "JsonAnswer",
    "Output",
    "as_json",
    "error",
    "exit_on_error",
    "facts",
    "folded",
    "hanging",
    "json_for_terminal",
    "json_line",
    "leave_line",
    "line",
    "note",
    "one_line",
    "plain",
    "reporter",
    "size",
    "table",
    "visible",
]

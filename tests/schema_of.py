"""The JSON schemas of reports and tables, made from their dataclasses. Run as a program to write the shipped files."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sandbox.explain import futexes as explain_futexes, model as explain_model, waits as explain_waits
from sandbox.judge import backtrace, verdict
from sandbox.report import kmem, model, signature, tables, timeline
from sandbox.triage import model as triage_model, table

SHIPPED = {model.Report: "report.schema.json", table.Index: "index.schema.json"}


def schema(of: type = model.Report) -> dict[str, Any]:
    made = _with_plain_words(TypeAdapter(of).json_schema(mode="serialization"))
    words = _words()
    for name, value in {**made.pop("$defs"), of.__name__: made}.items():
        value["additionalProperties"] = False
        value["required"] = list(value["properties"])
        for field, described in value["properties"].items():
            described.pop("title", None)
            described.pop("default", None)
            if text := words.get((name, field)):
                described["description"] = text
        if name != of.__name__:
            made.setdefault("$defs", {})[name] = value
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": _TITLES[of]}


def _with_plain_words(made: dict[str, Any]) -> dict[str, Any]:
    """Describe enumerations as strings, because a later version may add values."""
    sets = [name for name, value in made["$defs"].items() if "enum" in value]
    text = json.dumps(made | {"$defs": {name: value for name, value in made["$defs"].items() if name not in sets}})
    for name in sets:
        text = text.replace(json.dumps({"$ref": f"#/$defs/{name}"}), json.dumps({"type": "string"}))
    plain: dict[str, Any] = json.loads(text)
    return plain


_TITLES = {model.Report: "vmbox report", table.Index: "vmbox triage"}


def _words() -> dict[tuple[str, str], str]:
    """The docstrings under fields, by class and field."""
    found: dict[tuple[str, str], str] = {}
    for module in (
        backtrace,
        verdict,
        explain_model,
        explain_futexes,
        explain_waits,
        model,
        table,
        kmem,
        triage_model,
        signature,
        tables,
        timeline,
    ):
        for node in ast.parse(inspect.getsource(module)).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    match text:
                        case ast.Expr(value=ast.Constant(value=str(words))):
                            found[node.name, field.target.id] = " ".join(words.split())
    return found


if __name__ == "__main__":
    for kind, file in SHIPPED.items():
        text = json.dumps(schema(kind), indent=1, ensure_ascii=False) + "\n"
        Path(inspect.getfile(kind)).with_name(file).write_text(text, encoding="utf-8")

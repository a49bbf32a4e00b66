"""The report's JSON schema, derived from its dataclasses. Run as a program, it writes the file that ships."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sandbox.triage import backtrace, memory, report, signature, tables

SHIPPED = Path(report.__file__).with_name("report.schema.json")


def schema() -> dict[str, Any]:
    made = TypeAdapter(report.Report).json_schema(mode="serialization")
    words = _words()
    for name, value in {**made.pop("$defs"), "Report": made}.items():
        value["additionalProperties"] = False
        value["required"] = list(value["properties"])
        for field, described in value["properties"].items():
            described.pop("title", None)
            described.pop("default", None)
            if text := words.get((name, field)):
                described["description"] = text
        if name != "Report":
            made.setdefault("$defs", {})[name] = value
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "vmbox report"}


def _words() -> dict[tuple[str, str], str]:
    """The docstrings under fields, by class and field."""
    found: dict[tuple[str, str], str] = {}
    for module in (backtrace, memory, report, signature, tables):
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
    SHIPPED.write_text(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

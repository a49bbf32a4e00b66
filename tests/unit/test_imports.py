"""The import graph: data flows one way, heavy libraries have one importer each. (Of processes: test_what_is_loaded.)"""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sandbox"

LEVELS = [
    {"entry", "__main__"},
    {"cli"},
    {"commands", "shell", "doctor", "description", "demo", "ending", "shipping"},
    {"mcp"},
    {"api"},
    {"triage"},
    {"render"},
    {"opening"},
    {"gathering"},
    {"asking"},
    {"loading", "scratch"},
    {"session", "terminal"},
    {"transcripts", "history", "channel", "relay", "salvage", "turns", "verdict"},
    {"evidence", "leaks", "elsewhere"},
    {"case"},
    {"ledger"},
    {"bill"},
    {"selfcontained"},
    {"image", "containerfile", "bootstrap", "platforms"},
    {"debuginfo"},
    {"reach"},
    {"profiles"},
    {"dump", "engine"},
    {"host", "mirrors", "locks", "paths"},
    {"config"},
    {"progress", "model", "errors"},
]
"""docs/architecture.md in short: a module imports from its own level and from those below."""

SOLE_IMPORTERS = {
    "typer": {"cli"},
    "mcp": {"mcp"},
    "rich": {"render"},
    "platformdirs": {"config", "paths"},
    "docker": {"engine.docker", "engine.docker_trust"},
    "podman": {"engine.podman"},
    "jinja2": {"triage.page"},
    "pygal": {"triage.charts"},
    "distributed": {"triage.pools"},
    "cyclonedx": {"bill"},
}


_STATEMENT = re.compile(r"^[ ]*(?:from \S+ import (?:\([^)]*\)|[^\n]+)|import [^\n]+)$", re.MULTILINE)


@cache
def _modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.stem != "__init__"
    }


@cache
def _imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    # Only the statements that import, wherever they stand: to parse and walk all of the code takes a second.
    statements = (textwrap.dedent(found[0]) for found in _STATEMENT.finditer(path.read_text()))
    for node in ast.parse("\n".join(statements)).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "sandbox":
                found |= {f"sandbox.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return frozenset(found)


def _level(name: str) -> int:
    return next(number for number, level in enumerate(LEVELS) if name.split(".", maxsplit=1)[0] in level)


def test_imports_point_down() -> None:
    upwards = [
        f"{name} imports {target}, which stands above it"
        for name, path in _modules().items()
        for target in (
            imported.removeprefix("sandbox.") for imported in _imports(path) if imported.startswith("sandbox.")
        )
        if target != "__version__" and _level(target) < _level(name)
    ]
    assert upwards == []


@pytest.mark.parametrize("library", sorted(SOLE_IMPORTERS))
def test_heavy_libraries_have_one_importer(library: str) -> None:
    importers = {
        name
        for name, path in _modules().items()
        if any(imported.split(".")[0] == library for imported in _imports(path))
    }
    assert {name.split(".")[0] if name.startswith("cli.") else name for name in importers} <= SOLE_IMPORTERS[library]


def test_no_module_is_a_drawer() -> None:
    names = {part for name in _modules() for part in name.split(".")}
    assert not names & {"utils", "helpers", "common", "manager", "core"}


def test_no_two_test_modules_have_one_name() -> None:
    """pytest refuses to collect them in one run, which is how `make test` runs."""
    names = [path.name for path in (PACKAGE.parent / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))

"""The import graph: data flows one way, heavy libraries have one importer each. (Of processes: test_what_is_loaded.)

The order of floors is read from docs/architecture.md, which is the only place where it is written. Run as a program,
this prints the numbers of rooms, floors, arrows and circles.
"""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sandbox"
ARCHITECTURE = PACKAGE.parent / "docs" / "architecture.md"

MOST_ROOMS, MOST_FLOORS = 28, 13

SOLE_IMPORTERS = {
    "typer": {"cli"},
    "mcp": {"mcp.serving"},
    "rich": {"render.output", "render.progress"},
    "platformdirs": {"host.config", "host.paths"},
    "docker": {"engine.docker", "engine.docker_tls"},
    "podman": {"engine.libpod"},
    "jinja2": {"report.html"},
    "distributed": {"triage.executors"},
    "cyclonedx": {"commands.sbom"},
    "indexed_gzip": {"formats.gzip_index"},
    "botocore": {"remote.s3"},
    "asyncssh": {"remote.sftp"},
}

_STATEMENT = re.compile(r"^[ ]*(?:from \S+ import (?:\([^)]*\)|[^\n]+)|import [^\n]+)$", re.MULTILINE)
_FLOOR = re.compile(r"(?m)^ {4}[ \d]\d  (\S.*)$")


@cache
def _floors() -> dict[str, int]:
    """Room -> floor, 0 the highest; from the block of numbered lines in docs/architecture.md."""
    lines = _FLOOR.findall(ARCHITECTURE.read_text(encoding="utf-8"))
    return {
        room.removesuffix("/").removesuffix(".py"): floor
        for floor, line in enumerate(lines)
        for room in line.partition("#")[0].split()
    }


@cache
def _modules() -> dict[str, Path]:
    """Name below the package -> file; the package's own `__init__` by that name."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


@cache
def _imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    # Only the statements that import, wherever they are: to parse and walk all of the code takes a second.
    statements = (textwrap.dedent(found[0]) for found in _STATEMENT.finditer(path.read_text()))
    for node in ast.parse("\n".join(statements)).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name may be a module of the package.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def _arrows() -> dict[str, frozenset[str]]:
    """Module -> modules of the package that it imports."""
    arrows: dict[str, frozenset[str]] = {}
    for name, path in _modules().items():
        own = {imported.removeprefix("sandbox.") for imported in _imports(path) if imported.startswith("sandbox.")}
        known = own & _modules().keys()
        # `from sandbox.dump.source import Source` is an arrow to `dump.source`; the package around it is none.
        arrows[name] = frozenset(
            target
            for target in known
            if target != name and not any(other.startswith(f"{target}.") and other in known for other in known)
        )
    return arrows


def _room(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def _room_arrows() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for name, targets in _arrows().items():
        rooms.setdefault(_room(name), set()).update(_room(target) for target in targets)
    return {room: targets - {room} for room, targets in rooms.items()}


def _circles(arrows: dict[str, set[str]] | dict[str, frozenset[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other, found by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in arrows.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in arrows:
        if node not in index:
            visit(node)
    return found


def test_every_room_has_a_floor() -> None:
    assert {_room(name) for name in _modules()} == _floors().keys()
    assert len(_floors()) <= MOST_ROOMS
    assert len(set(_floors().values())) <= MOST_FLOORS


def test_imports_point_down() -> None:
    """Between rooms of one floor there is no import either."""
    floors = _floors()
    wrong = [
        f"{name} imports {target}"
        for name, targets in _arrows().items()
        for target in targets
        if _room(name) != _room(target) and floors[_room(target)] <= floors[_room(name)]
    ]
    assert wrong == []


def test_no_package_and_no_module_is_in_a_circle() -> None:
    assert _circles(_room_arrows()) == []
    assert _circles(_arrows()) == []


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


if __name__ == "__main__":
    print(  # noqa: T201 - the program's purpose
        f"{len(_floors())} rooms on {len(set(_floors().values()))} floors, {len(_modules())} modules, "
        f"{sum(map(len, _room_arrows().values()))} arrows between rooms, {len(_circles(_room_arrows()))} circles of "
        f"rooms, {len(_circles(_arrows()))} circles of modules"
    )

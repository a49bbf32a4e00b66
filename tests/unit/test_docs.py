"""The documentation agrees with the code: every error has an entry, every command and option that it shows exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer

from sandbox import errors
from sandbox.cli import app
from sandbox.host import config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ENGINEERS_PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]


@pytest.mark.parametrize("kind", errors.kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_an_entry_with_its_status(kind: type[errors.VmboxError]) -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    entry = re.search(rf"^## {kind.__name__}\n\nStatus (\d+):(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert entry is not None
    assert int(entry[1]) == kind.exit_code
    assert len(entry[2].split()) > 15


def test_every_entry_is_of_an_error() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    assert set(re.findall(r"^## (\w+)$", text, re.MULTILINE)) == {kind.__name__ for kind in errors.kinds()}


def _command_lines(page: Path) -> Iterator[str]:
    """Commands that a page shows: indented lines and inline code."""
    text = page.read_text()
    for line in re.findall(r"^    (?:\$ )?(vmbox .*)$", text, re.MULTILINE):
        yield line.partition("#")[0].partition("   ")[0].strip()
    yield from (found.replace("\n", " ") for found in re.findall(r"`(vmbox [^`]+)`", text))


def test_commands_of_hints_exist() -> None:
    root = typer.main.get_command(app)
    context = root.make_context("vmbox", [], resilient_parsing=True)
    for file in (ROOT / "sandbox").rglob("*.py"):
        for group, name in re.findall(r"\bvmbox (config|debuginfo|image) ([a-z]+)", file.read_text()):
            assert name in root.get_command(context, group).commands, f"{file}: vmbox {group} {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_and_options_that_are_shown_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    context = root.make_context("vmbox", [], resilient_parsing=True)
    for line in _command_lines(page):
        words = line.split(" -- ")[0].split()[1:]
        if not words or not re.fullmatch(r"[a-z]+", words[0]):
            continue
        command = root.get_command(context, words[0])
        assert command is not None, f"{page.name}: {line}"
        while hasattr(command, "commands") and len(words) > 1:
            words = words[1:]
            for name in words[0].split("\\|"):
                assert name in command.commands, f"{page.name}: {line}"
            command = command.commands[words[0].split("\\|")[0]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(words)):
            assert option in known | {"--help"}, f"{page.name}: {line}"


def test_the_table_of_the_readme_has_every_command() -> None:
    root = typer.main.get_command(app)
    expected = set()
    for name, command in root.commands.items():
        if not command.hidden:
            expected |= {f"{name} {child}" for child in command.commands} if hasattr(command, "commands") else {name}
    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    named = set()
    for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        for usage in re.findall(r"`(?:vmbox )?([^`]+)`", row):
            first, *words = usage.split()
            group = hasattr(root.commands[first], "commands")
            named |= {f"{first} {child}" for child in words[0].split("\\|")} if group else {first}
    assert named == expected


def test_every_setting_of_the_readme_exists() -> None:
    table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    named = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert named
    assert named <= set(config.meanings())


def test_links_of_the_readme_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", ENGINEERS_PAGES, ids=lambda path: path.name)
def test_functions_that_a_page_for_engineers_names_exist(page: Path) -> None:
    """They are written as `case/store.py:find` or `session/session.py:Session.run`."""
    for module, name in re.findall(r"`(?:sandbox/)?([\w/]+)\.py:([\w.]+)`", page.read_text()):
        found: object = import_module(f"sandbox.{module.replace('/', '.')}".removesuffix(".__init__"))
        for part in name.split("."):
            assert hasattr(found, part), f"{module}.py:{name}"
            found = getattr(found, part)


@pytest.mark.parametrize("page", ENGINEERS_PAGES, ids=lambda path: path.name)
def test_files_that_a_page_for_engineers_names_exist(page: Path) -> None:
    """Names in capitals, as `images/NAME.toml`, stand for files that are to be made."""
    places = r"sandbox|tests|docs|images|Containerfile\.d|benchmarks|tools|upkeep|examples"
    for path in re.findall(rf"`((?:{places})/[^`:\s]*)", page.read_text()):
        assert re.search(r"[A-Z]{4}|[*<]", path) or (ROOT / path).exists(), path


def test_the_text_says_caller_process_or_user() -> None:
    pages = [ROOT / "README.md"]
    for directory in (ROOT / "sandbox", ROOT / "docs"):
        pages += [page for page in sorted(directory.rglob("*")) if page.suffix in {".py", ".md", ".html"}]
    found = []
    for page in pages:
        for number, line in enumerate(page.read_text().splitlines(), start=1):
            if re.search(r"\b(whoever|nobody|somebody)\b", line, re.IGNORECASE):
                found.append(f"{page.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []

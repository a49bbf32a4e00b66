"""The arguments of `vmbox run`: one grammar, whether typer reads them or a warm run does."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.core
import typer.main
from hypothesis import given, settings, strategies as st
from typer.exceptions import TyperException

from sandbox import __main__ as entry, cli
from sandbox.case import store
from sandbox.cli import app
from sandbox.commands import run as commands
from sandbox.commands.run_arguments import FLAGS, VALUES, RunArguments, parse
from sandbox.errors import UsageError
from sandbox.model import Case

REFUSED, HELP = "refused", "help"

_PATHS = ("vmcore", "input_file", "output", "debuginfo")

_WORDS = [
    *FLAGS,
    *VALUES,
    *("--", "--", "-", "", "vmcore", "bt", "ps", "5", "1.5", "x", "drgn", "--bogus", "--bogus=1", "--quie"),
    *("-a", "-qi", "-ifile", "-qx", "-xq", "-qh", "-q-", "-xi", "-i=f"),
    *("--timeout=3", "--timeout=x", "--timeout=", "--json=1", "--input=-", "--tool=drgn"),
]
_LISTS = st.lists(st.sampled_from(_WORDS) | st.text("-=qiohexv", max_size=4), max_size=8)


def _command() -> tuple[Any, Any]:
    """`run` as typer has it, and the context above it."""
    root: Any = typer.main.get_command(app)
    above = root.make_context("vmbox", [], resilient_parsing=True)
    return root.get_command(above, "run"), above


def _by_typer_alone(arguments: list[str]) -> str | dict[str, object]:
    """What typer's own parser makes of the options that `run` declares."""
    command, above = _command()
    context = type(above)(command, parent=above, info_name="run", **command.context_settings)
    try:
        typer.core.TyperCommand.parse_args(command, context, list(arguments))
    except typer.Exit:
        return HELP
    except TyperException:
        return REFUSED
    values = context.params | {"commands": tuple(context.params["commands"] or ())}
    # typer makes paths of words when it calls the function.
    values |= {name: Path(values[name]) for name in _PATHS if values[name] is not None}
    return {name: str(value) for name, value in values.items()}


def _by_typer(arguments: list[str]) -> str | RunArguments:
    command, above = _command()
    try:
        asked: RunArguments = command.make_context("run", list(arguments), parent=above).obj
    except typer.Exit:
        return HELP
    except (TyperException, UsageError):
        return REFUSED
    return asked


def _warm(arguments: list[str]) -> str | RunArguments:
    try:
        return parse(arguments) or HELP
    except UsageError:
        return REFUSED


@pytest.fixture(scope="module", autouse=True)
def _no_help_page() -> Any:
    """To draw one for each list takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.core.TyperCommand, "format_help", lambda *_: None)
        yield


@pytest.mark.slow
@given(_LISTS)
@settings(deadline=None, max_examples=200)
def test_cold_and_warm_agree(arguments: list[str]) -> None:
    assert _by_typer(arguments) == _warm(arguments)


@pytest.mark.slow
@given(_LISTS)
@settings(deadline=None, max_examples=200)
def test_the_grammar_is_that_of_all_other_commands(arguments: list[str]) -> None:
    alone, ours = _by_typer_alone(arguments), _warm(arguments)
    if isinstance(alone, str):
        assert ours == alone
    elif isinstance(ours, RunArguments):
        # An engine without a name is that of the settings, which typer's callback has looked up.
        values = asdict(ours) | {"engine": ours.engine or None}
        assert {name: str(value) for name, value in values.items()} == alone
    else:
        # What typer cannot know: which words are no commands, and which options exclude each other.
        with pytest.raises(UsageError, match=r"^(no such option|--|-e CODE|give a script|a name is empty)"):
            parse(arguments)


def test_both_know_the_same_options() -> None:
    command, above = _command()
    options = {
        name: parameter
        for parameter in command.get_params(above)
        if parameter.param_type_name == "option"
        for name in parameter.opts
    }
    assert {name: option.name for name, option in options.items()} == {**FLAGS, **VALUES}
    assert {name for name, option in options.items() if option.is_flag} == FLAGS.keys()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("v -- bt", {"commands": ("bt",)}),
        ("v bt -a", {"commands": ("bt", "-a")}),
        ("v -q --json -- bt -- ps", {"quiet": True, "json": True, "commands": ("bt", "--", "ps")}),
        ("-q v --timeout 1.5 -i f", {"quiet": True, "timeout": 1.5, "input_file": Path("f")}),
        ("v -", {"commands": ("-",)}),
        ("v -- --bogus", {"commands": ("--bogus",)}),
        ("-- v -q", {"commands": ("-q",)}),
        ("v --with drgn -- bt", {"debugger": "drgn", "commands": ("bt",)}),
        ("v --tool drgn -e c -- -x", {"tool": "drgn", "code": "c", "commands": ("-x",)}),
    ],
)
def test_arguments(arguments: str, expected: dict[str, object]) -> None:
    assert parse(arguments.split()) == RunArguments(vmcore=Path("v"), **expected)  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            "",
            "--",
            "--bogus v -- bt",
            "v --bogus -- bt",
            "v --timeout x -- bt",
            "v -i",
            "v --json=1 bt",
            "v --keep --once bt",
        ),
        *("v --with gdb bt", "v --with drgn --tool drgn -e code"),
        *("v --tool gdb bt", "v -e code", "v --tool drgn", "v --tool drgn --json -- script.py"),
        *(f"v --timeout={value} -- bt" for value in ("nan", "0", "-1", "inf", "1e300")),
        *("v --debuginfo= -- bt", "v --engine= -- bt", "v --output= -- bt"),
    ],
)
def test_mistakes(arguments: str) -> None:
    with pytest.raises(UsageError):
        parse(arguments.split())


def test_an_open_case_is_found_once(make_case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def vmbox(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["vmbox", *words])
        entry.main()

    case: Case = make_case()
    looked: list[Path] = []
    ran: list[tuple[RunArguments, Case | None]] = []

    def find(dump: Path, *, engine: str | None = None) -> Case:
        looked.append(dump)
        return case

    def run_arguments(arguments: RunArguments, *, reporter: object, case: Case | None = None) -> int:
        ran.append((arguments, case))
        return 1

    monkeypatch.setattr(store, "find", find)
    monkeypatch.setattr(commands, "run_arguments", run_arguments)
    with pytest.raises(SystemExit) as ended:
        vmbox("run", "v", "--", "--bogus")
    assert ended.value.code == 1
    assert [(arguments.commands, found) for arguments, found in ran] == [(("--bogus",), case)]
    assert looked == [Path("v")]
    # It is not the case that is asked for; or one of its own is.
    for option in (("--image", "debian-13"), ("--once",)):
        with pytest.raises(SystemExit):
            vmbox("run", "v", *option, "--", "bt")
        assert ran[-1][1] is None
    assert len(looked) == 2
    # All else is the command line library's.
    others: list[list[str]] = []
    monkeypatch.setattr(cli, "app", lambda: others.append(sys.argv[1:]))
    for words in (["run", "v"], ["run", "v", "--bogus"], ["run", "--help"], ["list"]):
        vmbox(*words)
        assert others.pop() == words

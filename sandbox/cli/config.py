"""Commands about the settings: config show, config template."""

from __future__ import annotations

import typer

from sandbox import render
from sandbox.cli.app import app, command
from sandbox.cli.options import Json
from sandbox.host import config, paths

group = typer.Typer(no_args_is_help=True, help="Show the settings, and where each comes from.")
app.add_typer(group, name="config")


@command(group=group)
def show(json: Json = False) -> None:
    """Print every setting, its value, and the source of that: the environment, config.toml, or the default."""
    found = config.show()
    if json:
        render.as_json(found)
    else:
        places = {"cache_dir": paths.cache_dir, "runtime_dir": paths.runtime_dir, "state_dir": paths.state_dir}
        rows = []
        for item in found:
            value = config.format_value(item.key, item.value)
            if not value and item.key in places:
                value = str(places[item.key]())
            rows.append((item.key, value, item.origin))
        render.table(("KEY", "VALUE", "FROM"), rows)
    for name, near in config.unknown_variables().items():
        render.note(f"vmbox: ${name} is not a setting; did you mean ${near}?")


@command(group=group)
def template() -> None:
    """Print a config.toml that has every key, with its meaning, as a comment."""
    render.line(config.template())
    render.note(f"vmbox: save it as {config.file()}")

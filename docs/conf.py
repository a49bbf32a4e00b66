"""Sphinx: strict links, the reference generated from the code. `make docs` builds docs/_build/html."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sandbox import errors
from sandbox.cli.manual import statuses
from sandbox.host import config
from sandbox.version import __version__

HERE = Path(__file__).parent
project = "vmbox"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"vmbox {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "code"
# Outputs of crash are no Python.
highlight_language = "text"


def _commands() -> str:
    """Typer's own generator; its headings one level down."""
    command = [sys.executable, "-m", "typer", "sandbox.cli", "utils", "docs", "--name", "vmbox"]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return made.replace("&#x27;", "'").replace("# `vmbox`", "# Commands", 1)


def _settings() -> str:
    lines = [
        "# Settings",
        "",
        "Each key stands in `config.toml`, or in the environment, which goes before the file.",
        "",
    ]
    lines += ["| key | environment | meaning |", "|---|---|---|"]
    for key, meaning in config.meanings().items():
        lines.append(f"| `{key}` | `{config.variable(key)}` | {meaning} |")
    lines += ["", "`vmbox config template` prints:", "", "```toml", config.template(), "```", ""]
    return "\n".join(lines).replace(str(config.directory()), "~/.config/vmbox")


def _exit_statuses() -> str:
    lines = ["# Exit statuses", "", "| status | |", "|---|---|"]
    for status, meaning in statuses():
        name = meaning.partition(":")[0]
        known = name in {kind.__name__ for kind in errors.kinds()}
        lines.append(f"| {status} | {f'[{name}](../troubleshooting.md#{name.lower()})' if known else meaning} |")
    return "\n".join(lines) + "\n"


for name, make in (("commands", _commands), ("settings", _settings), ("exit-statuses", _exit_statuses)):
    page = HERE / "reference" / f"{name}.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(make(), encoding="utf-8")

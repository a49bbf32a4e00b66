"""The distribution in pyproject.toml, and in hints of errors."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sandbox.errors import missing_extra

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_hints_name_the_distribution_and_its_extras() -> None:
    extras = PROJECT["optional-dependencies"].items()
    for extra, requirement in ((extra, one) for extra, requirements in extras for one in requirements):
        library = requirement.partition(">")[0]
        hint = missing_extra("it", extra, library).hint
        assert f"{PROJECT['name']}[{extra}]" in hint
        assert f"pipx inject {PROJECT['name']} {library}" in hint

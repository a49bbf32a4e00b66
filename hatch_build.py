"""Hatchling's hook: makes vmbox(1) of the command line and puts it into the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from sandbox.cli.manual import page

        made = Path(self.directory) / "vmbox.1"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(page(), encoding="utf-8")
        build_data["shared_data"][str(made)] = "share/man/man1/vmbox.1"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        del version, build_data, artifact_path
        (Path(self.directory) / "vmbox.1").unlink(missing_ok=True)

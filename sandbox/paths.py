"""Where things are kept. Sole importer of platformdirs."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def data_dir() -> Path:
    """Directory that holds `images/` and `Containerfile.d/`: the checkout, or the copy inside the wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "_data"
    return inside if inside.is_dir() else package.parent


def config_dir() -> Path:
    """The user's own profiles (`images/*.toml`) and configuration. `$VMBOX_CONFIG_DIR` overrides."""
    return _directory("config")


def cache_dir() -> Path:
    """Debuginfo, downloads under way, unpacked dumps. `$VMBOX_CACHE_DIR` overrides."""
    return _directory("cache")


def runtime_dir() -> Path:
    """FIFOs and descriptions of open cases; mode 0700, gone after a reboot. `$VMBOX_RUNTIME_DIR` overrides."""
    path = _directory("runtime")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def state_dir() -> Path:
    """Histories and transcripts. `$VMBOX_STATE_DIR` overrides."""
    return _directory("state")


@cache
def _directory(kind: str) -> Path:
    # The cheap answer first: a warm `vmbox run` should not pay for importing platformdirs.
    if override := os.environ.get(f"VMBOX_{kind.upper()}_DIR"):
        return Path(override).absolute()
    import platformdirs

    dirs = platformdirs.PlatformDirs("vmbox", appauthor=False)
    match kind:
        case "config":
            return dirs.user_config_path
        case "cache":
            return dirs.user_cache_path
        case "runtime":
            return dirs.user_runtime_path
        case _:
            return dirs.user_state_path

"""Print the log on standard error, for `--verbose` and $VMBOX_LOG; first, facts about the host and the settings."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from typing import Final

from sandbox import log
from sandbox.errors import ConfigurationError
from sandbox.host import config
from sandbox.log import Log
from sandbox.render import visible
from sandbox.version import __version__

VARIABLE: Final = "VMBOX_LOG"

_log = Log("vmbox")


def begin(level: str) -> None:
    """Print lines of a level and above from now on. A second call changes only the level."""
    again = log.level() is not None
    log.start(level, visible)
    if again:
        return
    system, _, release, _, machine = os.uname()
    distribution = ""
    with suppress(OSError):
        distribution = f" ({platform.freedesktop_os_release().get('PRETTY_NAME', '')})"
    python = ".".join(map(str, sys.version_info[:3]))
    _log.info(
        "vmbox %s, Python %s, %s %s %s%s, uid %d",
        __version__, python, system, release, machine, distribution, os.geteuid(),
    )  # fmt: skip
    # The command itself reports a broken file, if it reads settings.
    with suppress(ConfigurationError):
        for item in config.show():
            if item.origin != "default":
                _log.info("setting %s = %s, from %s", item.key, config.format_value(item.key, item.value), item.origin)


def begin_from_environment() -> None:
    """Call `begin` with $VMBOX_LOG, if it is set. Raises `ConfigurationError` when it is neither debug nor info."""
    level = os.environ.get(VARIABLE)
    # Completion must print words only.
    if not level or "_VMBOX_COMPLETE" in os.environ:
        return
    if level not in log.LEVELS:
        raise ConfigurationError(
            f"${VARIABLE} must be {' or '.join(log.LEVELS)}", hint=f"it is {level!r}; --verbose is the same as debug"
        )
    begin(level)


def begin_in_worker(level: str | None) -> None:
    """Print the log of a worker process, with its process id in each line; nothing without a level."""
    if level is not None:
        log.start(level, visible, name=f"vmbox[{os.getpid()}]")

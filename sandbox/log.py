"""The log: what vmbox does and why, over Python's `logging`. A bug report should contain it.

The loggers are called vmbox.engine, vmbox.debuginfo and so on. A program that uses the library configures them with
`logging.getLogger("vmbox")`, the command line with `start`. A logger can have a handler only after `logging` was
imported. So this module does not import it, and a warm `vmbox run` does not load it.

SECURITY.md says what a line may contain: paths, host names, releases and URLs; no content of a dump and no secret.
`without_secrets` is applied to every line.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

LEVELS: Final = {"debug": 10, "info": 20}
"""As `logging` counts them."""

_ROOT: Final = "vmbox"
_BEGAN: Final = time.monotonic()
_GONE: Final = "***"
_LONGEST: Final = 4000
"""Characters of a line. Messages of package managers are shorter."""


class Log:
    """The logger vmbox.`name`."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = f"{_ROOT}.{name}"

    def info(self, message: str, *values: object) -> None:
        """Log a choice and its reason, e.g. which image. `values` are put into `message` by %."""
        self._say("info", message, values)

    def debug(self, message: str, *values: object) -> None:
        """Log a step towards a choice, e.g. a request, or a place without debuginfo. Arguments as of `info`."""
        self._say("debug", message, values)

    def on(self, level: str = "info") -> bool:
        """Whether lines of that level are printed or kept."""
        return self._listener(level) is not None

    def _listener(self, level: str) -> Any:
        # During its import in another thread the module has no getLogger yet.
        get_logger = getattr(sys.modules.get("logging"), "getLogger", None)
        logger = None if get_logger is None else get_logger(self._name)
        return logger if logger is not None and logger.isEnabledFor(LEVELS[level]) else None

    def _say(self, level: str, message: str, values: tuple[object, ...]) -> None:
        logger = self._listener(level)
        if logger is not None:
            logger.log(LEVELS[level], without_secrets(message % values if values else message), stacklevel=3)


def start(level: str, visible: Callable[[str], str], *, name: str = _ROOT) -> None:
    """Print lines of a level and above on standard error: `NAME: debug: SECONDS AREA: …`.

    `visible` makes control characters harmless. A second call replaces the first.
    """
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            head = f"{name}: {record.levelname.lower()}: {time.monotonic() - _BEGAN:.3f} "
            text = f"{record.name.removeprefix(f'{_ROOT}.')}: {record.getMessage()}".replace("\n", "\\n")
            # In one write: threads and other processes print there too.
            try:
                sys.stderr.write(f"{head}{visible(text)}\n")
                sys.stderr.flush()
            except (OSError, ValueError):
                pass  # it is closed

    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [Lines()]
    logger.setLevel(LEVELS[level])
    logger.propagate = False


def stop() -> None:
    """Undo `start`."""
    if (logging := sys.modules.get("logging")) is not None:
        logger = logging.getLogger(_ROOT)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def level() -> str | None:
    """The level that `start` was given; None without a call."""
    if (logging := sys.modules.get("logging")) is None or not logging.getLogger(_ROOT).handlers:
        return None
    number = logging.getLogger(_ROOT).level
    return next((word for word, its in LEVELS.items() if its == number), None)


def _user_removed(found: re.Match[str]) -> str:
    user, colon, _ = found["user"].partition(":")
    if found["scheme"].lower() != "ssh://":
        return f"{found['scheme']}{_GONE}@"
    # The user name of ssh is no secret.
    return f"{found['scheme']}{user}:{_GONE}@" if colon else found[0]


def _values_removed(found: re.Match[str]) -> str:
    words = (word.partition("=") for word in re.split("[&;]", found["query"]))
    return found["url"] + "&".join(f"{key}={_GONE}" if equals else _GONE for key, equals, _ in words)


@cache
def _secrets() -> tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]:
    """Patterns and their replacements, in order of use. Compiled late: a warm run needs none of them."""
    return (
        (re.compile(r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|\Z)", re.DOTALL), _GONE),
        (
            re.compile(
                r"(?i)(?P<name>\b(?:(?:proxy-)?authorization|x-registry-(?:auth|config)|(?:set-)?cookie)[\"']?\s*[:=]).*"
            ),
            rf"\g<name> {_GONE}",
        ),
        (re.compile(r"(?i)\b(?P<name>bearer|basic)\s+[\w+/.=~-]{8,}"), rf"\g<name> {_GONE}"),
        # Up to the last @ before the path. Some passwords contain a slash, which is no valid URL.
        (
            re.compile(
                r"(?i)(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s/?#]+|[^\s/?#@:]+:(?!//|\d+(?:[/?#]|$))[^\s@]+)@"
            ),
            _user_removed,
        ),
        # Without a scheme, as in proxy variables. debian:12@sha256:… is an image.
        (re.compile(r"(?<![\w/.*-])[\w.%+-]+:[^\s@/:*]+@(?!sha\d+:)(?=[\w.-])"), f"{_GONE}@"),
        # All values of a query: signed URLs have parameters of any name.
        (
            re.compile(
                r"(?P<url>\b[A-Za-z][\w+.-]*://[^\s?#\"'<>]*[?#])(?P<query>[^\s\"'<>]*?)(?=[:,.)]*(?:[\s\"'<>]|$))"
            ),
            _values_removed,
        ),
        (
            re.compile(
                r"(?i)(?P<name>[\w-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|credential|private[_-]?key)[\w-]*"
                r"[\"']?\s*[:=]\s*|[\w-]*signature=|[\"']auth[\"']\s*:\s*)(?!\*\*\*)(?:\"[^\"]*\"|'[^']*'|[^\s\"',;&]+)"
            ),
            rf"\g<name>{_GONE}",
        ),
    )


def without_secrets(text: str) -> str:
    """Replace possible secrets in `text` by ***: users and passwords in URLs, all values of a URL's query, headers that
    authorize, certificates and keys, and values named password, token or similar. At most 4000 characters are returned.
    """
    # Patterns are slow on long texts. The last word is dropped: half a secret would not be recognised.
    if len(text) > 4 * _LONGEST:
        text = text[: 4 * _LONGEST].rpartition(" ")[0]
    for pattern, instead in _secrets():
        text = pattern.sub(instead, text)
    return text[:_LONGEST]

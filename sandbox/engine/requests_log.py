"""Log each request to an engine: method, path, status and milliseconds; never its query or body."""

from __future__ import annotations

import threading
import urllib.parse
from typing import Any

from sandbox.log import Log

_log = Log("engine")


class RequestLog:
    """A response hook of a `requests` session, which both engine libraries use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[str, str, int] | None = None
        self._repeated = 0

    def __call__(self, response: Any, *_: object, **__: object) -> None:
        if not _log.on("debug"):
            return
        asked = response.request
        request = (asked.method or "", urllib.parse.urlsplit(asked.url or "").path, response.status_code)
        with self._lock:
            # While vmbox waits, it repeats a request many times a second.
            if request == self._last:
                self._repeated += 1
                return
            if self._repeated:
                _log.debug("%d more of the same", self._repeated)
            self._last, self._repeated = request, 0
        _log.debug("%s %s %d %.0f ms", *request, response.elapsed.total_seconds() * 1000)


def attach(session: Any) -> None:
    """Log each answer that `session`, a requests.Session, gets from now on."""
    session.hooks["response"].append(RequestLog())

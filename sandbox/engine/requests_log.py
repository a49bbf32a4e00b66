"""Log each request to an engine: method, path, status and milliseconds; never its query or body."""

from __future__ import annotations

import threading
import urllib.parse
from typing import Any

from sandbox.log import Log

_log = Log("engine")


class RequestLog:
    """The requests to one engine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[str, str, int] | None = None
        self._repeated = 0

    def add(self, method: str, path: str, status: int, seconds: float) -> None:
        """Log a request that was answered after `seconds`."""
        if not _log.on("debug"):
            return
        request = (method, path, status)
        with self._lock:
            # While vmbox waits, it repeats a request many times a second.
            if request == self._last:
                self._repeated += 1
                return
            if self._repeated:
                _log.debug("%d more of the same", self._repeated)
            self._last, self._repeated = request, 0
        _log.debug("%s %s %d %.0f ms", *request, seconds * 1000)


def attach(session: Any) -> None:
    """Log each answer that `session`, a requests.Session, gets from now on."""
    requests = RequestLog()

    def log(response: Any, *_: object, **__: object) -> None:
        asked = response.request
        path = urllib.parse.urlsplit(asked.url or "").path
        requests.add(asked.method or "", path, response.status_code, response.elapsed.total_seconds())

    session.hooks["response"].append(log)

"""A mirror of Debian's archive on this host that holds back what a test wants to see on its way."""

from __future__ import annotations

import contextlib
import http.server
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

from listening import listening


@dataclass(frozen=True, slots=True)
class Mirror:
    url: str
    opened: threading.Event
    """Lets through what is held back."""
    held: list[str] = field(default_factory=list)
    """The paths that are, or were."""


@contextlib.contextmanager
def mirror(held_back: str) -> Iterator[Mirror]:
    """Of files whose path has the pattern `held_back` only the first MiB comes, until `opened` is set."""
    opened = threading.Event()
    held: list[str] = []

    class Relay(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.request.Request(f"http://deb.debian.org{self.path}", method=self.command)
            try:
                answer = urllib.request.urlopen(asked, timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                self.send_response(answer.status)
                for name in ("Content-Length", "Last-Modified", "ETag"):
                    if value := answer.headers.get(name):
                        self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                with contextlib.suppress(OSError):
                    if re.search(held_back, self.path):
                        self.wfile.write(answer.read(1 << 20))
                        held.append(self.path)
                        opened.wait()
                    shutil.copyfileobj(answer, self.wfile, 1 << 20)

        do_HEAD = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None: ...

    with listening(Relay) as port:
        yield Mirror(f"http://127.0.0.1:{port}", opened, held)
        opened.set()

"""HTTP over a Unix socket, by the standard library."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server that listens at `path`."""

    def __init__(self, path: Path, *, timeout: float | None = None, blocksize: int = 8192) -> None:
        super().__init__("localhost", timeout=timeout, blocksize=blocksize)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

"""Web servers on loopback for one `with`."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        """Of a client that went away nothing is printed: what was captured is what vmbox prints itself."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(*args)  # type: ignore[arg-type]


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], *, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port of a server that answers by `handler`, each connection in a thread of its own."""
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls is not None:
            # Each connection's thread makes the handshake: a client that never makes it would block all others.
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()

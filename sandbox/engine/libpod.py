"""Podman's API over HTTP, by the standard library.

podman-py is not used: loading it takes longer than Podman takes to make a container. Of what vmbox asks, it lacks most
or gets it wrong: create (no noexec for a tmpfs), build (no progress), exec and attach (podman-py issue 421), remove.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from sandbox.engine import tls
from sandbox.engine.requests_log import RequestLog
from sandbox.engine.unix_socket import UnixConnection

_PREFIX: Final = "/v5.8.0/libpod"
"""The API whose answers this reads. Podman does not refuse a version above its own (tried with 4.3)."""
_CHUNK: Final = 1 << 18


class LibpodError(Exception):
    """Podman's refusal: an HTTP status, and its own words."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status

    @property
    def missing(self) -> bool:
        """Whether there is no such container or image."""
        # Podman 4.3 answers 500 for a container that disappears while it is inspected.
        return self.status == http.client.NOT_FOUND or "no such container" in str(self)


FAILURES: Final = (LibpodError, http.client.HTTPException, OSError)
"""All that a request raises."""


class Answer:
    """An answer, of which the body is not read yet. Close it, or read it to the end."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def body(self) -> bytes:
        """Read all of it."""
        try:
            return self._response.read()
        finally:
            self.close()

    def json(self) -> Any:
        """Read and parse all of it."""
        return json.loads(self.body())

    def pieces(self) -> Iterator[bytes]:
        """Yield it as it arrives."""
        while piece := self._response.read1(_CHUNK):
            yield piece

    def events(self) -> Iterator[Any]:
        """Yield the JSON objects, one a line, as they arrive."""
        for line in self._response:
            if line.strip():
                yield json.loads(line)

    def upgraded(self) -> tuple[IO[bytes], socket.socket]:
        """(buffered reader, which may hold the first bytes; socket) of a connection that is no longer HTTP."""
        return self._response.fp, self._connection.sock

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Libpod:
    """Requests to the API at one address. Each has a connection of its own: several threads may ask at once."""

    def __init__(self, url: str) -> None:
        """`url` is unix:///PATH, tcp://HOST:PORT or http://HOST:PORT."""
        self._parts = urllib.parse.urlsplit(url)
        self._log = RequestLog()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json_body: object = None,
        data: IO[bytes] | None = None,
        upgrade: bool = False,
    ) -> Answer:
        """Send a request, with JSON or a tar as its body. Raises `LibpodError`, or another of `FAILURES`."""
        query = urllib.parse.urlencode(params or {}, doseq=True)
        target = _PREFIX + path
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"} if upgrade else {}
        body: Any = data
        if data is not None:
            headers["Content-Type"] = "application/x-tar"
        elif json_body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(json_body).encode()
        connection = self._connection()
        began = time.monotonic()
        try:
            # It may answer before it has read all, e.g. that a tar is none.
            with contextlib.suppress(BrokenPipeError):
                connection.request(method, f"{target}?{query}" if query else target, body, headers)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        self._log.add(method, target, response.status, time.monotonic() - began)
        answer = Answer(connection, response)
        if response.status >= http.client.BAD_REQUEST:
            raise LibpodError(response.status, _said(response, answer.body()))
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        # No timeout: builds, waits and terminals may be silent for long. Detection has a timeout of its own.
        parts = self._parts
        if parts.scheme == "unix":
            return UnixConnection(Path(urllib.parse.unquote(parts.path)), blocksize=_CHUNK)
        host, proof = parts.hostname or "", tls.certificates() if parts.scheme == "tcp" else None
        if proof is None:
            return http.client.HTTPConnection(host, parts.port or 2375, blocksize=_CHUNK)
        return http.client.HTTPSConnection(host, parts.port or 2376, context=proof.context(), blocksize=_CHUNK)


def _said(response: http.client.HTTPResponse, body: bytes) -> str:
    """Why, in Podman's words: {"message": …}, or bare text of a proxy."""
    text = body.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text or f"{response.status} {response.reason}"

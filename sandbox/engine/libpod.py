"""Podman's API, through podman-py's client. The only importer of `podman`. Tried with podman-py 5.8.0 and Podman 4.3.

Of podman-py it is the transport that is used, and its errors. Of the calls that vmbox makes, its managers lack most or
get them wrong: create (no noexec for a tmpfs), build (no progress), exec and attach (podman-py issue 421: stdin hangs,
no TTY size, no exit code), pull (it does not say when one fails), remove (waits ten seconds for SIGTERM).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

import podman
import podman.errors
import requests

from sandbox.engine import requests_log, tls

_CHUNK: Final = 1 << 18
_UPGRADE: Final = {"Connection": "Upgrade", "Upgrade": "tcp"}


class LibpodError(Exception):
    """Podman's refusal: an HTTP status, and its own words."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status

    @property
    def missing(self) -> bool:
        """Whether there is no such container or image."""
        # Podman 4.3 answers 500 for a container that disappears while it is inspected.
        return self.status == requests.codes.not_found or "no such container" in str(self)


FAILURES: Final = (LibpodError, podman.errors.PodmanError, requests.RequestException, OSError)
"""All that a request raises."""


class Answer:
    """An answer, of which the body is not read yet. Close it, or read it to the end."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def body(self) -> bytes:
        """Read all of it."""
        content: bytes = self._response.content
        return content

    def json(self) -> Any:
        """Read and parse all of it."""
        return json.loads(self.body())

    def pieces(self) -> Iterator[bytes]:
        """Yield it as it arrives."""
        yield from self._response.iter_content(chunk_size=_CHUNK)

    def events(self) -> Iterator[Any]:
        """Yield the JSON objects, one a line, as they arrive."""
        for line in self._response.iter_lines(chunk_size=1):
            if line.strip():
                yield json.loads(line)

    def upgraded(self) -> tuple[Any, Any]:
        """(buffered reader, which may hold the first bytes; socket) of a connection that is no longer HTTP."""
        raw = self._response.raw
        return raw._fp.fp, raw.connection.sock  # noqa: SLF001 - urllib3 has no public name for it

    def close(self) -> None:
        self._response.close()


class Libpod:
    """Requests to the API at one address. Several threads may ask at once."""

    def __init__(self, url: str) -> None:
        """`url` is unix:///PATH, tcp://HOST:PORT or http://HOST:PORT."""
        self._api: Any = podman.PodmanClient(base_url=url).api
        proof = tls.certificates() if url.startswith("tcp:") else None
        self._verify = None if proof is None else str(proof.authority)
        if proof is not None:
            self._api.cert = (str(proof.certificate), str(proof.key))
        requests_log.attach(self._api)

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
        headers = dict(_UPGRADE) if upgrade else {}
        body: Any = data
        if data is not None:
            headers["Content-Type"] = "application/x-tar"
        elif json_body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(json_body)
        ask = getattr(self._api, method.lower())
        try:
            answer = ask(path, params=params, data=body, headers=headers, stream=True, verify=self._verify)
        except podman.errors.APIError as error:
            raise _reason(error) from None
        if answer.status_code >= requests.codes.bad_request:
            raise LibpodError(answer.status_code, _said(answer))
        return Answer(answer)


def _reason(error: BaseException) -> BaseException:
    """The first of a chain of errors: of a dead socket podman-py and its libraries say in three that there is one."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _said(answer: Any) -> str:
    """Why, in Podman's words: {"message": …}, or bare text of a proxy."""
    text = answer.content.decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text or f"{answer.status_code} {answer.reason}"

"""Records the sources that were tried and why each had nothing, and makes one error of them."""

from __future__ import annotations

from typing import Final

from sandbox.errors import (
    DebuginfoError,
    DebuginfoMismatch,
    DebuginfoNotFound,
    DownloadFailed,
    VerificationFailed,
    VmboxError,
)
from sandbox.log import Log

_log = Log("debuginfo")


class SearchLog:
    """One line for each source, in the order they were tried."""

    def __init__(self, release: str | None) -> None:
        self._release = release
        self._failures: list[tuple[str, VmboxError]] = []

    def note(self, source: str, error: VmboxError | str) -> None:
        """Records that `source` had nothing. The reason is a plain sentence when there was no error."""
        failure = DebuginfoNotFound(error, hint="") if isinstance(error, str) else error
        _log.debug("%s", _told(source, failure))
        self._failures.append((source, failure))

    def to_error(self, message: str | None = None) -> DebuginfoError:
        """The error to raise when no source had it: the failure that says most, with all of them as detail."""
        detail = "\n".join(_told(source, error) for source, error in self._failures)
        for telling in (DebuginfoMismatch, VerificationFailed, DownloadFailed):
            for _, error in self._failures:
                if isinstance(error, telling):
                    return telling(error.message, detail=detail)
        return DebuginfoNotFound(message or f"no debuginfo of kernel {self._release} was found", detail=detail)


_LINES: Final = 12
"""Last lines of a program's output that are kept."""


def _told(source: str, error: VmboxError) -> str:
    """The failure, with the package manager's output, e.g. that a signature is bad or a list has expired."""
    said = (error.detail or "").splitlines()[-_LINES:]
    return "\n".join([f"{source}: {error.message.removeprefix(f'{source}: ')}", *(f"    {line}" for line in said)])

"""Records the sources that were tried and why each had nothing, and makes one error of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from sandbox.debuginfo.certificates import CertificateMissing
from sandbox.debuginfo.download import Refused
from sandbox.errors import (
    DebuginfoError,
    DebuginfoMismatch,
    DebuginfoNotFound,
    DownloadFailed,
    Unreachable,
    VerificationFailed,
    VmboxError,
)
from sandbox.log import Log

_log = Log("debuginfo")


class _Answer(StrEnum):
    """What a place said that had nothing, where no more is to be told of it than that."""

    NOT_THERE = "not there"
    SUBSCRIPTION = "needs a subscription, whose certificate is not on this host"
    REFUSED = "refused"
    UNREACHABLE = "not reachable"


class SearchLog:
    """One line for each source, in the order they were tried. All are in the log; the error counts what is alike."""

    def __init__(self, release: str | None) -> None:
        self._release = release
        self._failures: list[tuple[str, VmboxError]] = []

    def note(self, source: str, error: VmboxError | str) -> None:
        """Records that `source` had nothing. The reason is a plain sentence when there was no error."""
        failure = DebuginfoNotFound(error, hint="") if isinstance(error, str) else error
        _log.debug("%s", _told(source, failure))
        self._failures.append((source, failure))

    def note_absent(self, source: str, packages: Sequence[str]) -> None:
        """Records that `source` has none of the packages."""
        self.note(source, _Absent(f"it has no {' '.join(packages)}", hint=""))

    def to_error(self, message: str | None = None, *, files: Sequence[str] = ()) -> DebuginfoError:
        """The error to raise when no source had it: the failure that says most, or else how many places said what.

        `files` are the names under which the vendor's package can be asked for.
        """
        detail = "\n".join(self._summary())
        _log.debug("%s", detail)
        for telling in (DebuginfoMismatch, VerificationFailed):
            for _, error in self._failures:
                if isinstance(error, telling):
                    return telling(error.message, detail=detail)
        message = message or f"no debuginfo of kernel {self._release} was found"
        answers = [_answer(error) for _, error in self._failures]
        wanted = " or ".join(files)
        elsewhere = f"check the network and proxy settings, or bring {wanted} and give it: --debuginfo FILE"
        unreachable = [error for _, error in self._failures if _answer(error) is _Answer.UNREACHABLE]
        # What needs a subscription was not asked.
        if unreachable and set(answers) <= {_Answer.UNREACHABLE, _Answer.SUBSCRIPTION}:
            hosts = self._places(_Answer.UNREACHABLE)
            said = f"{hosts[0]} is not reachable" if len(hosts) == 1 else f"none of {len(hosts)} hosts is reachable"
            return DownloadFailed(f"{message}: {said}, {_reason(unreachable[0])}", hint=elsewhere if files else None)
        for _, error in self._failures:
            if isinstance(error, DownloadFailed) and _answer(error) is None:
                return DownloadFailed(error.message, detail=detail)
        if unreachable:
            return DownloadFailed(message, detail=detail, hint=elsewhere if files else None)
        hint = f"ask for {wanted} and give it: --debuginfo FILE" if files else None
        return DebuginfoNotFound(message, detail=detail, hint=hint)

    def _summary(self) -> list[str]:
        """What failed in a way of its own, in words; then how many places gave which answer."""
        lines = [_told(source, error) for source, error in self._failures if _answer(error) is None]
        for answer in _Answer:
            if places := self._places(answer):
                count = sum(_answer(error) is answer for _, error in self._failures)
                lines.append(f"{answer}: {count} {'place' if count == 1 else 'places'} ({', '.join(places)})")
        return lines

    def _places(self, answer: _Answer) -> list[str]:
        """Hosts, or what else the places are called, each once."""
        named = (urlsplit(source).hostname or source for source, error in self._failures if _answer(error) is answer)
        return list(dict.fromkeys(named))


class _Absent(DebuginfoNotFound):
    """An index without the package."""


def _answer(error: VmboxError) -> _Answer | None:
    match error:
        case Unreachable():
            return _Answer.UNREACHABLE
        case CertificateMissing():
            return _Answer.SUBSCRIPTION
        case Refused(status=401 | 403):
            return _Answer.REFUSED
        case Refused(status=404 | 410) | _Absent():
            return _Answer.NOT_THERE
        case _:
            return None


def _reason(error: VmboxError) -> str:
    """Why a host is not reachable: the message without its URL."""
    return error.message.rpartition(": ")[2]


_LINES: Final = 12
"""Last lines of a program's output that are kept."""


def _told(source: str, error: VmboxError) -> str:
    """The failure, with the package manager's output, e.g. that a signature is bad or a list has expired."""
    said = (error.detail or "").splitlines()[-_LINES:]
    return "\n".join([f"{source}: {error.message.removeprefix(f'{source}: ')}", *(f"    {line}" for line in said)])

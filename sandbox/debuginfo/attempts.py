"""Records the sources that were tried and why each had nothing, and makes one error of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from sandbox.debuginfo.certificates import CertificateMissing
from sandbox.debuginfo.download import ProxyRefused, Refused, TimedOut, Untrusted, WebPage
from sandbox.errors import (
    DebuginfoError,
    DebuginfoMismatch,
    DebuginfoNotFound,
    DownloadFailed,
    Unreachable,
    VerificationFailed,
    VmboxError,
)
from sandbox.host import mirrors
from sandbox.log import Log

_log = Log("debuginfo")


class _Answer(StrEnum):
    """What a place said that had nothing, where no more is to be told of it than that."""

    NOT_THERE = "not there"
    SUBSCRIPTION = "needs a subscription, whose certificate is not on this host"
    REFUSED = "refused"
    UNREACHABLE = "not reachable"
    TIMED_OUT = "no answer in time"
    UNTRUSTED = "certificate is not trusted"
    FAILING = "server fails"
    WEB_PAGE = "a web page came in place of it"


_OF_THE_WAY: Final = frozenset(
    {_Answer.UNREACHABLE, _Answer.TIMED_OUT, _Answer.UNTRUSTED, _Answer.FAILING, _Answer.WEB_PAGE}
)
"""What says nothing of the package: another network or another day may have it."""


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
        wanted = " or ".join(files)
        bring = f", or bring {wanted} and give it: --debuginfo FILE" if files else ""
        for telling, instead in (
            (DebuginfoMismatch, None),
            (VerificationFailed, f"nothing of it was kept; use another mirror{bring}" if files else None),
        ):
            for _, error in self._failures:
                if isinstance(error, telling):
                    return telling(error.message, detail=detail, hint=instead)
        message = message or f"no debuginfo of kernel {self._release} was found"
        answers = {_answer(error) for _, error in self._failures}
        elsewhere = f"check the network and proxy settings{bring}" if files else None
        if _Answer.UNTRUSTED in answers:
            elsewhere = f"where the site has an authority of its own: export SSL_CERT_FILE=AUTHORITY.pem{bring}"
        # What needs a subscription was not asked.
        if (told := answers - {_Answer.SUBSCRIPTION}) == {_Answer.UNREACHABLE}:
            hosts = self._places(_Answer.UNREACHABLE)
            first = next(error for _, error in self._failures if _answer(error) is _Answer.UNREACHABLE)
            said = f"{hosts[0]} is not reachable" if len(hosts) == 1 else f"none of {len(hosts)} hosts is reachable"
            return DownloadFailed(f"{message}: {said}, {_reason(first)}", hint=elsewhere)
        for _, error in self._failures:
            if isinstance(error, DownloadFailed) and _answer(error) is None:
                how = error.hint if isinstance(error, ProxyRefused) else "run the same command again to resume"
                return DownloadFailed(error.message, detail=detail, hint=f"{how}{bring}" if files else None)
        if told & _OF_THE_WAY:
            return DownloadFailed(message, detail=detail, hint=elsewhere)
        hint = f"ask for {wanted} and give it: --debuginfo FILE" if files else None
        return DebuginfoNotFound(message, detail=detail, hint=hint)

    def _summary(self) -> list[str]:
        """What failed in a way of its own, in words; then how many places gave which answer."""
        lines = [_told(source, error) for source, error in self._failures if _answer(error) is None]
        for answer in _Answer:
            if places := self._places(answer):
                errors = [error for _, error in self._failures if _answer(error) is answer]
                count = f"{len(errors)} {'place' if len(errors) == 1 else 'places'}"
                why = f"; {_reason(errors[0])}" if answer in _WITH_REASON else ""
                lines.append(f"{answer}: {count} ({', '.join(places)}){why}")
        return lines

    def _places(self, answer: _Answer) -> list[str]:
        """Hosts, or what else the places are called, each once."""
        return list(dict.fromkeys(_host(source) for source, error in self._failures if _answer(error) is answer))


class _Absent(DebuginfoNotFound):
    """An index without the package."""


_WITH_REASON: Final = frozenset({_Answer.UNTRUSTED, _Answer.FAILING})


def _host(source: str) -> str:
    """The host of a URL, and the mirror that was asked in its place; what is no URL as it is."""
    host = urlsplit(source).hostname
    if host is None:
        return source
    asked = urlsplit(mirrors.rewrite(source)).hostname
    return host if asked in {host, None} else f"{asked} for {host}"


def _answer(error: VmboxError) -> _Answer | None:
    match error:
        case Unreachable():
            return _Answer.UNREACHABLE
        case TimedOut():
            return _Answer.TIMED_OUT
        case Untrusted():
            return _Answer.UNTRUSTED
        case WebPage():
            return _Answer.WEB_PAGE
        case Refused() if error.transient or error.status >= 500:
            return _Answer.FAILING
        case CertificateMissing():
            return _Answer.SUBSCRIPTION
        case Refused(status=401 | 403):
            return _Answer.REFUSED
        case Refused(status=404 | 410) | _Absent():
            return _Answer.NOT_THERE
        case _:
            return None


def _reason(error: VmboxError) -> str:
    """Why: the message without its URL, and without what the group says."""
    return re.sub(rf"^\S+://\S+: (its {_Answer.UNTRUSTED}: )?", "", error.message)


_LINES: Final = 12
"""Last lines of a program's output that are kept."""


def _told(source: str, error: VmboxError) -> str:
    """The failure, with the package manager's output, e.g. that a signature is bad or a list has expired."""
    said = (error.detail or "").splitlines()[-_LINES:]
    named = error.message.startswith((f"{source}: ", f"{mirrors.rewrite(source)}: "))
    return "\n".join([error.message if named else f"{source}: {error.message}", *(f"    {line}" for line in said)])

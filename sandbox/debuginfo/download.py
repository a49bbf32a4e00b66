"""Requests over HTTP: proxies, credentials, TLS, redirects, and what is asked for once more."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from sandbox.debuginfo import certificates
from sandbox.errors import ConfigurationError, DownloadFailed, Unreachable
from sandbox.host import mirrors
from sandbox.log import Log, without_secrets
from sandbox.progress import Reporter

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")
_log = Log("download")

_ATTEMPTS_WITHOUT_PROGRESS: Final = 4
FIRST_WAIT = 0.5
"""Seconds before the first repetition; doubled each time."""
_LONGEST_WAIT: Final = 15.0
_MOST_REDIRECTS: Final = 10
_SECONDS: Final = 30.0
"""Without a byte."""
_SECONDS_TO_CONNECT: Final = 10.0
_TLS_SECONDS: Final = 4.0
"""A host that drops what comes to its TLS port must not cost more."""
_WITHOUT_TLS: Final[set[str]] = set()
_WANTS_LOGIN_OF_PROXY: Final = 407
_FAILING: Final[set[str]] = set()
"""Hosts that failed again and again: they are asked once for each other file, until they answer."""
_TRANSIENT_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class Refused(DownloadFailed):
    """The server refused the request."""

    def __init__(self, url: str, status: int, reason: str) -> None:
        super().__init__(f"{without_secrets(url)}: {status} {reason}".rstrip(), hint="")
        self.status = status

    @property
    def transient(self) -> bool:
        """Whether the server may answer another time."""
        return self.status in _TRANSIENT_STATUS


class TimedOut(DownloadFailed):
    """The host takes connections and answers none of the requests, however often it is asked."""


class Untrusted(DownloadFailed):
    """The host's certificate is not trusted. That is an answer, as for `Unreachable`."""


class WebPage(DownloadFailed):
    """A page of HTML came in place of the file: from a proxy, from a network that wants a login, or from a mirror."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{without_secrets(url)}: a web page came in place of it", hint="")


class ProxyRefused(DownloadFailed):
    """The proxy wants a name and a password, or others. It is not tried again."""

    default_hint = "what it wants: export https_proxy=http://USER:PASSWORD@HOST:PORT, and http_proxy; %40 is an @"


def client(url: str) -> httpx.Client:
    """A client that obeys the proxy variables and asks for unencoded bytes. `get` follows redirects.

    One client per process: it keeps connections, threads may share it, and reading the certificates takes time.
    Archives that require a client certificate have a client of their own.
    """
    return _client(certificates.certificate_for(url))


@cache
def _client(certificate: certificates.Certificate | None) -> httpx.Client:
    import urllib.request

    from sandbox.version import __version__

    for scheme, proxy in urllib.request.getproxies().items():
        _log.debug("proxy for %s: %s", scheme, proxy)
    if certificate is not None:
        _log.debug("client certificate: %s", certificate.certificate)
    return new_client(
        headers={"User-Agent": f"vmbox/{__version__}", "Accept-Encoding": "identity"},
        verify=True if certificate is None else certificates.context(certificate),
    )


def new_client(**settings: Any) -> httpx.Client:
    """An `httpx.Client`. Raises `ConfigurationError` for a proxy variable that is no URL."""
    import httpx

    hint = "export https_proxy=http://HOST:PORT, or unset it: env | grep -i proxy"
    try:
        return httpx.Client(**settings)
    except ValueError as error:
        why = without_secrets(str(error))
        raise ConfigurationError(f"a proxy variable is no URL: {why}", hint=hint) from None
    except httpx.InvalidURL:
        # What it says of a port is a part of a password that has a slash.
        raise ConfigurationError("a proxy variable is no URL", hint=f"{hint}; %2F is a slash in a password") from None


@contextlib.contextmanager
def get(
    url: str, headers: Mapping[str, str] | None = None, *, seconds: float = _SECONDS, login: bool = False
) -> Iterator[httpx.Response]:
    """The answer to a GET, to be read while it arrives. Redirects are followed, but never out of TLS.

    Each host sees only the client certificate that is meant for it, and with `login` only the name and password that
    ~/.netrc has for it. Raises `DownloadFailed` for a refused redirect, and errors of httpx.
    """
    for _ in range(_MOST_REDIRECTS):
        _check_host(url)
        with _answer(url, headers or {}, seconds, login=login) as response:
            if response.next_request is None:
                yield response
                return
            following = response.next_request.url
        if why := _refused(response.url, following):
            raise DownloadFailed(
                f"{without_secrets(url)}: redirected to {without_secrets(str(following))}, {why}: refused", hint=""
            )
        url = str(following)
    raise DownloadFailed(f"{without_secrets(url)}: redirected again and again", hint="")


def _check_host(url: str) -> None:
    """Raise `DownloadFailed` for a host whose name cannot be looked up: Python has no error of its own for that."""
    import httpx

    try:
        httpx.URL(url).raw_host.decode("ascii").encode("idna")
    except UnicodeError:
        raise DownloadFailed(f"{without_secrets(url)} names no host", hint="") from None


def _refused(asked: httpx.URL, following: httpx.URL) -> str | None:
    """Why a redirect is not followed."""
    if following.scheme not in {"http", "https"}:
        return "which is no web server"
    if asked.scheme == "https" and following.scheme != "https":
        return "without TLS"
    if _is_inward(following.host) and not _is_inward(asked.host):
        return "an address of this host or of its link alone"
    return None


def _is_inward(host: str) -> bool:
    """Whether a host is named as this one, or by a link-local address, where clouds have the keys of a machine.

    A name may still have such an address; an attacker who can make such a name needs no redirect.
    """
    import ipaddress

    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified)


@contextlib.contextmanager
def _answer(url: str, headers: Mapping[str, str], seconds: float, *, login: bool) -> Iterator[httpx.Response]:
    """Yield the answer to one GET. Logs its status, and the bytes and seconds until its end."""
    import httpx

    timeout = httpx.Timeout(seconds, connect=min(seconds, _SECONDS_TO_CONNECT))
    began = time.monotonic()
    asked = " ".join(filter(None, ("GET", url, headers.get("Range"))))
    try:
        found = _login(url) if login else None
        auth = httpx.USE_CLIENT_DEFAULT if found is None else found
        with client(url).stream("GET", url, headers=dict(headers), timeout=timeout, auth=auth) as response:
            try:
                yield response
            finally:
                arrived, taken = response.num_bytes_downloaded, time.monotonic() - began
                _log.debug("%s: %d, %d bytes in %.3f s", asked, response.status_code, arrived, taken)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        _log.debug("%s: %s after %.3f s", asked, _in_words(error), time.monotonic() - began)
        raise


def _login(url: str) -> tuple[str, str] | None:
    """Name and password of ~/.netrc, or of $NETRC, for the host of a URL that has none itself.

    Its default entry does not count: a redirect would send it to any host. Raises `ConfigurationError`.
    """
    import netrc

    parts = urlsplit(url)
    place = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    if parts.username is not None or parts.hostname is None:
        return None
    try:
        found = netrc.netrc(place).hosts.get(parts.hostname)
    except FileNotFoundError:
        return None
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError) as error:
        # What the parser says has a word of the file in it.
        said = f"line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else type(error).__name__
        raise ConfigurationError(f"{place} cannot be read: {said}", hint=f"fix it: chmod 600 {place}") from None
    return None if found is None else (found[0], found[2])


def is_secure(url: str) -> bool:
    """Whether what is fetched from there comes over TLS all the way, with the site's mirrors put in."""
    return mirrors.rewrite(url).startswith("https:")


def host_of(url: str) -> str:
    """The host, with its port, that is asked for a URL, with the site's mirrors put in."""
    return urlsplit(mirrors.rewrite(url)).netloc


def over_tls(url: str, size: int | None) -> str | None:
    """The same file of the same host over TLS, where that answers with one of `size` bytes; None where it does not.

    A host that has no TLS is asked once in a process.
    """
    import httpx

    twin = tls_url(url)
    if twin is None or (host := httpx.URL(twin).host) in _WITHOUT_TLS:
        return None
    try:
        with get(twin, {"Range": "bytes=0-0"}, seconds=_TLS_SECONDS) as answer:
            total = total_of(answer) if answer.status_code == 206 else None
            return twin if total is not None and size in {None, total} else None
    except httpx.TransportError:
        _WITHOUT_TLS.add(host)
    except (httpx.HTTPError, httpx.InvalidURL, DownloadFailed):
        pass
    return None


def tls_url(url: str) -> str | None:
    """The URL where the same host has TLS; None where it is no plain one, or of a port of its own."""
    import httpx

    try:
        plain = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    return str(plain.copy_with(scheme="https")) if plain.scheme == "http" and plain.port is None else None


def counted(text: str) -> int | None:
    """A count that a server or an index wrote; None if it is no number, or larger than any file."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def retried(url: str, attempt: Callable[[], _T], reporter: Reporter, position: Callable[[], int] = lambda: 0) -> _T:
    """Calls `attempt` until it returns. Tries again after connection errors, time-outs, 5xx and 429.

    An attempt that moved `position` does not count: a bad line succeeds in the end. Before the first byte, a host that
    cannot be connected to, or whose certificate is not trusted, has answered, and one that failed so for another file
    is asked once. Raises `DownloadFailed`, of which `Unreachable`, `Untrusted`, `TimedOut` and `Refused` are.
    """
    import httpx

    start, host = position(), urlsplit(url).netloc

    def transient(error: BaseException) -> bool:
        if position() == start and (host in _FAILING or _is_final(error)):
            return False
        if isinstance(error, Refused):
            return error.transient
        return isinstance(error, httpx.TransportError) and not isinstance(
            error, httpx.UnsupportedProtocol | httpx.ProxyError
        )

    def say(error: BaseException | None) -> None:
        reporter.notice(f"{without_secrets(url)}: {_in_words(error)}; trying again")

    try:
        found = again(attempt, transient, say, position)
    except Refused as error:
        (_FAILING.add if error.transient else _FAILING.discard)(host)
        raise
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if isinstance(error, httpx.ProxyError):
            said = f"{without_secrets(url)}: {_by_proxy(url)}{_in_words(error)}"
            # httpx has the status in its words only.
            wants = str(error).startswith(str(_WANTS_LOGIN_OF_PROXY))
            raise (ProxyRefused(said) if wants else DownloadFailed(said)) from None
        if (why := _untrusted(error)) is not None:
            raise Untrusted(f"{without_secrets(url)}: its certificate is not trusted: {why}") from None
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            raise Unreachable(f"{without_secrets(url)}: {_by_proxy(url)}{_in_words(error)}") from None
        _FAILING.add(host)
        said = f"{without_secrets(url)}: {_in_words(error)}"
        if isinstance(error, httpx.ReadTimeout) and position() == start:
            raise TimedOut(said) from None
        raise DownloadFailed(said) from None
    _FAILING.discard(host)
    return found


def _by_proxy(url: str) -> str:
    """The proxy that the environment has for a URL, in front of what is said of it: it may be what does not answer."""
    import urllib.request

    parts, proxies = urlsplit(url), urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return ""
    return f"by the proxy {without_secrets(found)}: "


def resumed(
    pieces: Callable[[int, int], Iterator[bytes]],
    offset: int,
    size: int,
    take: Callable[[bytes], None],
    retry: Callable[[Callable[[], None], Callable[[], int]], None],
) -> None:
    """Gives `size` bytes to `take` as they arrive, and asks for the rest of them after an attempt that failed.

    `pieces` asks for (offset, size). `retry` calls the attempt, its first argument, as often as it is worth it; the
    second tells how many bytes have arrived.
    """
    done = 0

    def attempt() -> None:
        nonlocal done
        for piece in pieces(offset + done, size - done):
            done += len(piece)
            take(piece)

    if size > 0:
        retry(attempt, lambda: done)


def again(
    attempt: Callable[[], _T],
    transient: Callable[[BaseException], bool],
    say: Callable[[BaseException | None], None],
    position: Callable[[], int] = lambda: 0,
) -> _T:
    """Calls `attempt` until it returns, or raises what is not `transient`, or has failed too often without progress.

    An attempt that moved `position` has made progress. `say` is called before each wait.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random

    fruitless = 0

    def once() -> _T:
        nonlocal fruitless
        before = position()
        try:
            return attempt()
        except BaseException:
            fruitless = 0 if position() > before else fruitless + 1
            raise

    def before_sleep(state: RetryCallState) -> None:
        say(state.outcome.exception() if state.outcome else None)

    retrying = Retrying(
        retry=retry_if_exception(transient),
        stop=lambda _: fruitless >= _ATTEMPTS_WITHOUT_PROGRESS,
        wait=wait_exponential(multiplier=FIRST_WAIT, max=_LONGEST_WAIT) + wait_random(0, FIRST_WAIT),
        before_sleep=before_sleep,
        reraise=True,
    )
    return retrying(once)


def _is_final(error: BaseException) -> bool:
    """Whether to ask again is of no use: no such name, nothing listens, no way there, a certificate of another."""
    return _untrusted(error) is not None or any(
        isinstance(cause, socket.gaierror | ConnectionRefusedError)
        or (isinstance(cause, OSError) and cause.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH})
        for cause in _causes(error)
    )


def _untrusted(error: BaseException) -> str | None:
    """What is wrong with the host's certificate, in OpenSSL's words; None if nothing is."""
    found = (cause.verify_message for cause in _causes(error) if isinstance(cause, ssl.SSLCertVerificationError))
    return next(found, None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def refuse(response: httpx.Response) -> None:
    """Raises `Refused` unless the server sent the requested file or part, `ProxyRefused` for a proxy's 407."""
    if response.status_code == _WANTS_LOGIN_OF_PROXY:
        url, said = str(response.url), f"{response.status_code} {response.reason_phrase}".rstrip()
        raise ProxyRefused(f"{without_secrets(url)}: {_by_proxy(url)}{said}")
    if not response.is_success:
        raise Refused(str(response.url), response.status_code, response.reason_phrase)


def refuse_page(url: str, beginning: bytes) -> None:
    """Raise `WebPage` for the beginning of a page of HTML, which no package, index or vmlinux begins with."""
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html)\b", beginning, re.IGNORECASE):
        raise WebPage(url)


def total_of(response: httpx.Response) -> int | None:
    """Size of the whole file that a response is a part of, if known."""
    if response.status_code == 206:
        found = content_range(response)
        return found[2] if found else None
    return counted(response.headers.get("Content-Length", ""))


def content_range(response: httpx.Response) -> tuple[int, int, int] | None:
    """(first byte, last byte, bytes of the whole file) of a part; None if the response has no such header."""
    found = re.fullmatch("bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("Content-Range", ""))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _in_words(error: BaseException | None) -> str:
    import httpx

    match error:
        case Refused():
            return error.message.partition(": ")[2] or error.message
        case httpx.ConnectTimeout() | httpx.ReadTimeout() | httpx.WriteTimeout() | httpx.PoolTimeout():
            return "no answer in time"
        case httpx.ConnectError():
            return f"no connection ({error})"
        case _:
            return str(error) or type(error).__name__

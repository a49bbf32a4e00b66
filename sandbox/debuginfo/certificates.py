"""Client certificates, for archives that require a subscription, e.g. Red Hat's CDN or a Satellite.

subscription-manager keeps a certificate and its key in /etc/pki/entitlement, as SERIAL.pem and SERIAL-key.pem, and the
CDN's own authority in /etc/rhsm/ca (rhsm.conf(5)). Which archives want one is the setting client_certificates.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.errors import ConfigurationError, DebuginfoNotFound
from sandbox.host import config

_USUAL: Final = {"https://cdn.redhat.com": "/etc/pki/entitlement"}
_AUTHORITIES: Final = Path("/etc/rhsm/ca")


class CertificateMissing(DebuginfoNotFound):
    """An archive wants a client certificate, and none is on this host: it need not be asked."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key. Hashable: connections are kept by it."""

    certificate: Path
    key: Path
    """The same file if it contains both, as those from the customer portal do."""


def require(url: str) -> None:
    """Raises `CertificateMissing` if `url` wants a certificate that is not on this host."""
    if (place := _place(url)) is not None and certificate_for(url) is None:
        raise CertificateMissing(f"{url}: it wants a client certificate, and none is in {place}")


def _place(url: str) -> Path | None:
    """Where the certificate for `url` is; None if none is wanted."""
    settings = {**_USUAL, **(config.current().client_certificates or {})}
    fitting = [prefix for prefix in settings if _begins(url, prefix)]
    return Path(settings[max(fitting, key=len)]).expanduser() if fitting else None


def certificate_for(url: str) -> Certificate | None:
    """The certificate for `url`; None if none is wanted, or none is on this host."""
    place = _place(url)
    if place is None:
        return None
    if place.is_file():
        return Certificate(place, place)
    with contextlib.suppress(OSError):
        # The newest: renewed certificates are beside expired ones.
        return max(_pairs(place), key=lambda pair: pair.certificate.stat().st_mtime, default=None)
    return None


def _begins(url: str, prefix: str) -> bool:
    """Whether `url` is in the archive at `prefix`: the same host and port, and a path below.

    The library that connects also parses: another parser might see another host in the URL than it connects to.
    """
    import httpx

    try:
        asked, archive = httpx.URL(url), httpx.URL(prefix)
    except httpx.InvalidURL:
        return False
    if asked.userinfo or (asked.scheme, asked.host) != (archive.scheme, archive.host):
        return False
    # A prefix without a port means every port, as it always has.
    if archive.port is not None and asked.port != archive.port:
        return False
    return f"{asked.path}/".startswith(f"{archive.path.rstrip('/')}/")


def context(certificate: Certificate) -> ssl.SSLContext:
    """A TLS context that presents `certificate` and trusts the system's and subscription-manager's authorities.

    Raises `ConfigurationError` for a file that cannot be read or is no certificate.
    """
    made = ssl.create_default_context()
    for authority in sorted(_AUTHORITIES.glob("*.pem")):
        with contextlib.suppress(OSError, ssl.SSLError):
            made.load_verify_locations(authority)
    try:
        made.load_cert_chain(certificate.certificate, certificate.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"the client certificate {certificate.certificate} cannot be used: {error}",
            hint="subscription-manager refresh; or name another one in the setting client_certificates",
        ) from None
    return made


def _pairs(directory: Path) -> Iterator[Certificate]:
    for key in sorted(directory.glob("*-key.pem")):
        certificate = key.with_name(key.name.removesuffix("-key.pem") + ".pem")
        if certificate.is_file():
            yield Certificate(certificate, key)

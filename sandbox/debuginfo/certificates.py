"""Client certificates: archives that let in only those who have a subscription, e.g. Red Hat's CDN or a Satellite.

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

from sandbox.errors import ConfigurationError
from sandbox.host import config

_USUAL: Final = {"https://cdn.redhat.com": "/etc/pki/entitlement"}
_AUTHORITIES: Final = Path("/etc/rhsm/ca")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a client shows. Hashable: connections are kept by it."""

    certificate: Path
    key: Path
    """The same file where it holds both, as those from the customer portal do."""


def certificate_for(url: str) -> Certificate | None:
    """The certificate for `url`; None where none is wanted, or there is none on this host."""
    settings = {**_USUAL, **(config.current().client_certificates or {})}
    fitting = [prefix for prefix in settings if _begins(url, prefix)]
    if not fitting:
        return None
    place = Path(settings[max(fitting, key=len)]).expanduser()
    if place.is_file():
        return Certificate(place, place)
    with contextlib.suppress(OSError):
        # The newest: what was renewed lies beside what has run out.
        return max(_pairs(place), key=lambda pair: pair.certificate.stat().st_mtime, default=None)
    return None


def _begins(url: str, prefix: str) -> bool:
    """Whether `url` is of the archive at `prefix`: the same host and port, and a path below.

    Taken apart by the library that connects: what another one takes for the host might not be the one that is asked.
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
    """For connections that show `certificate`. The system's authorities count, and those of subscription-manager.

    Raises `ConfigurationError` for one that cannot be read or is none.
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

"""What proves to an engine behind tcp:// who we are, and to us that it is the engine that was meant.

The variables and files are those of the docker command: with $DOCKER_TLS_VERIFY or $DOCKER_CERT_PATH the connection is
TLS, by ca.pem, cert.pem and key.pem of $DOCKER_CERT_PATH or ~/.docker. The other side is always verified: a case holds
a customer's memory.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from sandbox.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files in PEM."""

    authority: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Raises `ConfigurationError` when the files are no certificates, or do not belong together."""
        try:
            context = ssl.create_default_context(cafile=self.authority)
            context.load_cert_chain(self.certificate, self.key)
            # Python 3.13 began to refuse authorities that do not say what their key is for; what Docker's own
            # documentation has people make with openssl is one.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        except OSError as error:  # SSLError is one
            raise ConfigurationError(
                f"the certificates in {self.authority.parent} cannot be used: {error.strerror or error}",
                hint="$DOCKER_CERT_PATH names the directory with ca.pem, cert.pem and key.pem of this engine",
            ) from None
        return context


def certificates() -> Certificates | None:
    """What the environment asks for; None: no TLS. Raises `ConfigurationError` when a file is missing."""
    given = os.environ.get("DOCKER_CERT_PATH")
    if not given and not os.environ.get("DOCKER_TLS_VERIFY"):
        return None
    directory = Path(given) if given else Path.home() / ".docker"
    files = [directory / name for name in ("ca.pem", "cert.pem", "key.pem")]
    if missing := [file.name for file in files if not os.access(file, os.R_OK)]:
        raise ConfigurationError(
            f"{', '.join(missing)} cannot be read in {directory}",
            hint="$DOCKER_CERT_PATH names the directory with ca.pem, cert.pem and key.pem; unset $DOCKER_TLS_VERIFY"
            " for an engine without TLS",
        )
    return Certificates(authority=files[0], certificate=files[1], key=files[2])

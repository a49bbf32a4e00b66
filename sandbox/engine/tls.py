"""Certificates for an engine behind tcp://: they identify us to the engine and the engine to us.

The variables and files are those of the docker command. With $DOCKER_TLS_VERIFY or $DOCKER_CERT_PATH the connection is
TLS, with ca.pem, cert.pem and key.pem of $DOCKER_CERT_PATH or ~/.docker. The engine is always verified, because a case
contains a customer's memory.
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
        """Load the certificates. Raises `ConfigurationError` if they are invalid or do not match each other."""
        try:
            context = ssl.create_default_context(cafile=self.authority)
            context.load_cert_chain(self.certificate, self.key)
            # Since 3.13 Python refuses authorities without a key usage. The authority that Docker's documentation
            # makes with openssl has none.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        except OSError as error:  # SSLError is one
            raise ConfigurationError(
                f"the certificates in {self.authority.parent} cannot be used: {error.strerror or error}",
                hint="$DOCKER_CERT_PATH names the directory with ca.pem, cert.pem and key.pem of this engine",
            ) from None
        return context


def certificates() -> Certificates | None:
    """The certificates that the environment names; None: no TLS. Raises `ConfigurationError` if a file is missing."""
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

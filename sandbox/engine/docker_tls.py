"""TLS for docker-py: it and a Docker daemon behind tcp:// always verify each other, by the rules in `tls`."""

from __future__ import annotations

import ssl
from typing import Any

import docker.tls
import requests.adapters

from sandbox.engine import tls


def wanted() -> Any:
    """The argument `tls` of docker-py's client; False when the environment asks for no TLS."""
    proof = tls.certificates()
    return False if proof is None else _Trust(proof)


class _Trust(docker.tls.TLSConfig):  # type: ignore[misc] # docker has no types
    """Certificates that no environment variable replaces."""

    def __init__(self, proof: tls.Certificates) -> None:
        super().__init__(
            client_cert=(str(proof.certificate), str(proof.key)), ca_cert=str(proof.authority), verify=True
        )
        self._context = proof.context()

    def configure_client(self, client: Any) -> None:
        super().configure_client(client)
        client.mount("https://", _Adapter(self._context))
        # With trust_env, requests prefers $REQUESTS_CA_BUNDLE to the session's authority, and accepts its hosts.
        client.trust_env = False


class _Adapter(requests.adapters.HTTPAdapter):
    """Connects with our own SSL context instead of the defaults of Python or urllib3."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._context)

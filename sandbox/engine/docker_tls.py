"""How docker-py comes to verify a Docker behind tcp://, and to be verified by it: as `tls` says, always."""

from __future__ import annotations

import ssl
from typing import Any

import docker.tls
import requests.adapters

from sandbox.engine import tls


def wanted() -> Any:
    """What docker-py's client takes for `tls`; False where the environment asks for none."""
    proof = tls.certificates()
    return False if proof is None else _Trust(proof)


class _Trust(docker.tls.TLSConfig):  # type: ignore[misc] # docker has no types
    """Certificates that nothing in the environment replaces."""

    def __init__(self, proof: tls.Certificates) -> None:
        super().__init__(
            client_cert=(str(proof.certificate), str(proof.key)), ca_cert=str(proof.authority), verify=True
        )
        self._context = proof.context()

    def configure_client(self, client: Any) -> None:
        super().configure_client(client)
        client.mount("https://", _Adapter(self._context))
        # requests has $REQUESTS_CA_BUNDLE go before a session's own authority, and every host it vouches for pass.
        client.trust_env = False


class _Adapter(requests.adapters.HTTPAdapter):
    """Connections by our own rules of trust and not by those of this version of Python or urllib3."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, ssl_context=self._context)

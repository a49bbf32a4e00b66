"""Which registries and archives this host can reach, as its mirrors and proxies stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from sandbox.debuginfo.download import new_client
from sandbox.debuginfo.urls import kernel_repositories, places
from sandbox.host import mirrors
from sandbox.profiles import Profile

_PATIENCE = 4.0
"""Seconds a server has to answer."""


def registries(profiles: Iterable[Profile]) -> set[str]:
    """Addresses of the registries that the profiles' base images come from, e.g. https://quay.io/v2/."""
    return {_registry(mirrors.rewrite(ref)) for profile in profiles for ref in profile.base.images if "/" in ref}


def archives(profiles: Iterable[Profile]) -> set[str]:
    """Addresses of the servers that packages and debuginfo come from."""
    found: set[str] = set()
    for profile in profiles:
        named = [template for place in places(profile) for template in place.templates]
        named += profile.image.sources
        named += kernel_repositories(profile.debuginfo) if profile.debuginfo else ()
        named += [profile.base.bootstrap.mirror] if profile.base.bootstrap else []
        for line in named:
            for url in re.findall(r"https?://[^\s\]{}'\"]+", mirrors.rewrite(line)):
                parts = urlsplit(url)
                if parts.netloc:
                    found.add(f"{parts.scheme}://{parts.netloc}/")
    return found


def probe(addresses: Iterable[str]) -> Mapping[str, str | None]:
    """address -> None when something answers there, whatever it says; else why not."""
    import httpx

    with (
        new_client(timeout=_PATIENCE, follow_redirects=False) as client,
        ThreadPoolExecutor(16) as pool,
    ):

        def one(address: str) -> str | None:
            try:
                client.head(address)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                return str(error) or type(error).__name__
            return None

        wanted = sorted(set(addresses))
        return dict(zip(wanted, pool.map(one, wanted), strict=True))


def _registry(ref: str) -> str:
    host = ref.partition("/")[0]
    if "." not in host and ":" not in host and host != "localhost":
        host = "docker.io"
    # The name in references, and the host that serves its API.
    host = {"docker.io": "registry-1.docker.io"}.get(host, host)
    plain = host.startswith(("localhost", "127."))
    return f"{'http' if plain else 'https'}://{host}/v2/"

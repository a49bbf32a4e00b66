"""Questions to the package manager of a distribution, asked in a container of its base image."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from sandbox.debuginfo import NoPackageManager, RemotePackage
from sandbox.engine import ContainerSpec, Engine
from sandbox.errors import BaseImageUnavailable, DownloadFailed, EngineFailed, Unreachable
from sandbox.host import paths
from sandbox.image import ensure_base
from sandbox.image.package_sources import apt_settings, source_lines
from sandbox.profiles import Profile
from sandbox.progress import QUIET, Reporter

_UNREACHABLE: Final = re.compile(
    r"Could not resolve '[^']+'|Temporary failure resolving '[^']+'|(?:Could not|Unable to) connect to [\w.:-]+"
)
"""apt's words (methods/connect.cc)."""
_ANSWER: Final = re.compile(
    r"(?P<package>[^\t]+)\t(?P<url>https?://[^\t ]+)\t(?P<size>[0-9]{1,18})\t(?P<sha256>[0-9a-f]{64})"
)
"""A line of the query script. What is in it comes from an archive."""


class ContainerPackageQuery:
    """Asks a distribution's own package manager where packages are, in a container of its base image."""

    def __init__(
        self, profile: Profile, engine: Engine, reporter: Reporter = QUIET, *, machine: str | None = None
    ) -> None:
        """`machine` is the dump's, where that is not the engine's."""
        self._machine = machine
        self._profile = profile
        self._engine = engine
        self._reporter = reporter

    def __call__(self, packages: Sequence[str], sources: Sequence[str]) -> Iterable[RemotePackage]:
        """Yields those of `packages` (NAME or NAME=VERSION) that are in `sources`."""
        rules = self._profile.debuginfo
        if rules is None or rules.query_script is None:
            return
        script = (paths.data_dir() / "Containerfile.d" / "files" / rules.query_script).read_text(encoding="utf-8")
        try:
            image = ensure_base(self._profile, self._engine, self._reporter)
        except BaseImageUnavailable as error:
            if found := _UNREACHABLE.search(error.detail or ""):
                raise NoPackageManager(f"{error.message}: {found[0]}", detail=error.detail) from error
            raise
        spec = ContainerSpec(
            image=image,
            argv=["sh", "-c", script, rules.query_script, *packages],
            env={
                "SOURCES": source_lines(sources),
                "APT_CONF": source_lines([*apt_settings(), *self._architecture()]),
            },
            network="host",
            hardened=False,
            as_caller=False,
        )
        with self._reporter.step(f"Asking {self._profile.title} for {', '.join(packages)}"):
            try:
                answer = b"".join(self._engine.run(spec))
            except EngineFailed as error:
                said = error.detail or error.message
                message = f"the package sources of {self._profile.title} cannot be read"
                if found := _UNREACHABLE.search(said):
                    raise Unreachable(f"{message}: {found[0]}", detail=said) from error
                raise DownloadFailed(
                    message,
                    hint="check the network and proxy settings, or name a mirror in $VMBOX_MIRRORS",
                    detail=said,
                ) from error
        for line in filter(None, answer.decode(errors="replace").split("\n")):
            found = _ANSWER.fullmatch(line)
            if found is None or found["package"] not in packages:
                raise DownloadFailed(
                    f"the package sources of {self._profile.title} gave an answer that is none",
                    hint="name another mirror in $VMBOX_MIRRORS",
                    detail=line[:200],
                )
            name, _, version = found["package"].partition("=")
            yield RemotePackage(
                package=name, version=version, url=found["url"], size=int(found["size"]), sha256=found["sha256"]
            )

    def _architecture(self) -> list[str]:
        """The configuration with which apt looks for packages of another architecture."""
        if self._machine is None:
            return []
        word = self._profile.arch.get(self._machine, self._machine)
        return [f'APT::Architecture "{word}";', f'APT::Architectures {{ "{word}"; }};']

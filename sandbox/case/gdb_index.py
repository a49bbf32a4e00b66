"""The container that makes the .gdb_index of a vmlinux."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandbox.debuginfo.gdb_index import GdbIndexBuilder
from sandbox.engine import Bind, ContainerSpec, Engine, Tmpfs
from sandbox.errors import ConfigurationError
from sandbox.image import tool
from sandbox.profiles import load
from sandbox.progress import QUIET, Reporter


def gdb_image(engine: Engine, reporter: Reporter = QUIET) -> str:
    """The image with the gdb that indexes vmlinux, built if the engine does not have it. Returns its reference."""
    profile = next((profile for profile in load().values() if profile.builds_gdb_index), None)
    if profile is None:
        raise ConfigurationError("no profile has a gdb whose index every crash reads")
    return tool("prepare", "prepare-apt", profile, engine, reporter)


def gdb_index_builder(
    engine: Engine, reporter: Reporter = QUIET, *, made: Callable[[], str] | None = None
) -> GdbIndexBuilder:
    """Makes the index of a vmlinux in a container that has no network and never sees a dump.

    `made` returns the reference of `gdb_image`, or raises the error of its build, where the caller has begun that.
    """

    def make_index(vmlinux: Path, directory: Path) -> None:
        spec = ContainerSpec(
            image=gdb_image(engine, reporter) if made is None else made(),
            argv=["/usr/libexec/vmbox/prepare", "/in/vmlinux", "/out"],
            env={"HOME": "/out", "TMPDIR": "/out"},
            binds=[
                Bind(source=vmlinux.parent.resolve(), target="/in"),
                Bind(source=directory.resolve(), target="/out", read_only=False),
            ],
            tmpfs=[Tmpfs(target="/tmp", size=64 << 20)],  # noqa: S108 - in the container
        )
        for _ in engine.run(spec):
            pass

    return make_index

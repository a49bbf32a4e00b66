"""Build images: a distribution's base with `crash` and the session script. All kernels of a major version share one.

An image's tag is the hash of its build context. So there is no database and nothing to invalidate: the same profile
gives the same tag, and a changed fragment gives another one.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from sandbox.engine import ContainerSpec, Engine, labels
from sandbox.errors import (
    BaseImageUnavailable,
    EngineFailed,
    ImageBuildFailed,
)
from sandbox.host import mirrors, paths
from sandbox.host.files import age
from sandbox.host.locks import locked
from sandbox.host.tempdirs import scratch_directory
from sandbox.image import bootstrap, containerfile
from sandbox.image.containerfile import BuildContext
from sandbox.image.package_sources import architecture, package_sources, refuse_logins
from sandbox.log import Log
from sandbox.profiles import Bootstrap, Profile, digests, load, platforms
from sandbox.progress import QUIET, Reporter, Step

_log = Log("image")


def reference(profile: Profile) -> str:
    """The name of a profile's image, whether or not it has been built."""
    return containerfile.reference(profile.name, containerfile.context(containerfile.of_profile(profile)))


def ensure(profile: Profile, engine: Engine, reporter: Reporter = QUIET) -> str:
    """Build the image of a profile unless the engine has it, and return its reference."""
    return build(
        containerfile.of_profile(profile),
        engine,
        base=lambda: ensure_base(profile, engine, reporter),
        reporter=reporter,
        platform=profile.platform,
    )


def build(
    recipe: BuildContext,
    engine: Engine,
    *,
    base: Callable[[], str],
    reporter: Reporter = QUIET,
    platform: str | None = None,
) -> str:
    """Build `recipe` on the image that `base` returns, unless the engine has it, and return its reference."""
    context = containerfile.context(recipe)
    ref = containerfile.reference(recipe.name, context)
    if engine.image(ref) is not None:
        _log.info("%s: the engine has it", ref)
        return ref
    refuse_logins(context)
    below = base()
    _log.info("%s: the engine does not have it; built on %s", ref, below)
    # Of two builds of one tag at once, the second finds the image of the first.
    with locked(paths.cache_dir() / "locks" / f"image-{ref.rpartition(':')[2]}", reporter, f"building {recipe.name}"):
        if engine.image(ref) is not None:
            return ref
        with reporter.step(f"Building image {recipe.name}") as step:
            args = {"BASE": below, **recipe.args}
            carried = {labels.IMAGE: recipe.name}
            for line in engine.build(io.BytesIO(context), ref, labels=carried, args=args, platform=platform):
                step.detail(line)
    if engine.image(ref) is None:
        raise ImageBuildFailed(f"the engine built {recipe.name} but does not have {ref}", hint="run vmbox doctor")
    return ref


def ensure_base(profile: Profile, engine: Engine, reporter: Reporter = QUIET) -> str:
    """Get the base image of a profile: the engine's copy, else from a registry, else bootstrapped from packages."""
    suite = profile.base.bootstrap.suite if profile.base.bootstrap is not None else "none"
    bootstrapped = f"localhost/vmbox/base-{profile.name}:{suite}"
    candidates = base_references(profile)
    # A registry's tag is of the engine's own architecture; a base of another one gets a name of its own.
    for ref in (bootstrapped, *candidates) if profile.platform is None else (bootstrapped,):
        if _has(engine, ref, profile.platform):
            _log.info("base %s: the engine has it", ref)
            return ref
        _log.debug("base %s: the engine does not have it", ref)
    with locked(paths.cache_dir() / "locks" / f"base-{profile.name}", reporter, f"fetching the base of {profile.name}"):
        if _has(engine, bootstrapped, profile.platform):
            return bootstrapped
        failures: list[str] = []
        for ref in candidates:
            try:
                if profile.platform is None:
                    _pull(ref, engine, reporter)
                    _log.info("base %s: pulled", ref)
                    return ref
                _pull_foreign(ref, bootstrapped, profile.platform, engine, reporter)
            except (BaseImageUnavailable, EngineFailed) as error:
                failures.append(f"{ref}: {error.message}")
                _log.info("base %s: cannot be pulled: %s", ref, error.message)
            else:
                _log.info("base %s: pulled for %s as %s", ref, profile.platform, bootstrapped)
                return bootstrapped
        if profile.base.bootstrap is not None:
            try:
                _bootstrap(profile.base.bootstrap, bootstrapped, engine, profile, reporter)
            except BaseImageUnavailable as error:
                failures += [f"{profile.base.bootstrap.tool}: {error.message}", *(error.detail or "").splitlines()]
                hint = error.hint
                _log.info("base %s: not made: %s", bootstrapped, error.message)
            else:
                _log.info("base %s: made of packages by %s", bootstrapped, profile.base.bootstrap.tool)
                return bootstrapped
        else:
            hint = "connect to a registry, or name a mirror of it in $VMBOX_MIRRORS"
    raise BaseImageUnavailable(
        f"no base image for {profile.title} is available", hint=hint, detail="\n".join(failures) or None
    )


def _has(engine: Engine, ref: str, platform: str | None) -> bool:
    """Whether the engine has `ref`, of the architecture of `platform` if that is given."""
    found = engine.image(ref)
    return found is not None and (platform is None or found.arch == platforms.arch_of(platform))


def _pull(ref: str, engine: Engine, reporter: Reporter, platform: str | None = None) -> None:
    with reporter.step(f"Pulling {ref}") as step:
        for line in engine.pull(ref, platform=platform):
            step.detail(line)


def _pull_foreign(ref: str, name: str, platform: str, engine: Engine, reporter: Reporter) -> None:
    """Pull an image of another architecture under its own name, and restore the tag by which it was pulled."""
    before = engine.image(ref)
    _pull(ref, engine, reporter, platform)
    pulled = engine.image(ref)
    if pulled is None or pulled.arch != platforms.arch_of(platform):
        raise BaseImageUnavailable(f"{ref} is not of {platform}")
    engine.tag(ref, name)
    if before is None:
        engine.remove_image(ref)
    elif before.id != pulled.id:
        engine.tag(before.id, ref)


def base_references(profile: Profile) -> list[str]:
    """References to pull a base image by, best first: by digest if the tag is pinned, from the site's mirrors."""
    known = digests()
    pinned = [f"{ref.rpartition(':')[0]}@{known[ref]}" if ref in known else ref for ref in profile.base.images]
    return [mirrors.rewrite(ref) for ref in pinned]


def tool(name: str, fragment: str, profile: Profile, engine: Engine, reporter: Reporter) -> str:
    """Build the image of a tool that vmbox itself needs from a profile's packages, and return its reference."""
    recipe = BuildContext(
        name=f"{name}-{profile.name}",
        fragments=("base", "apt", fragment),
        args={},
        files=package_sources(profile),
    )
    return build(recipe, engine, base=lambda: ensure_base(profile, engine, reporter), reporter=reporter)


_FRESH: Final = 24 * 3600
"""Seconds for which a bootstrapped root file system is reused; older ones lack security updates."""


def _bootstrap(how: Bootstrap, ref: str, engine: Engine, profile: Profile, reporter: Reporter) -> None:
    kept = paths.cache_dir() / "rootfs" / f"{profile.name}.tar"
    with reporter.step(f"Bootstrapping {profile.title} from packages") as step:
        if not (kept.is_file() and age(kept.stat().st_mtime) < _FRESH):
            with scratch_directory() as directory:
                tar = directory / "rootfs.tar"
                if how.tool == "dnf":
                    _with_dnf(tar, engine, profile, reporter, step)
                else:
                    mirror = how.ports.get(architecture(profile), how.mirror)
                    bootstrap.make_rootfs(
                        replace(how, mirror=mirror), tar, step, architecture=_foreign_architecture(profile)
                    )
                kept.parent.mkdir(exist_ok=True)
                tar.replace(kept)
        step.detail("importing")
        engine.import_rootfs(kept, ref, {labels.IMAGE: f"base-{profile.name}"}, platform=profile.platform)


def _foreign_architecture(profile: Profile) -> str | None:
    """The distribution's name of the profile's architecture; None for the host's own."""
    return None if profile.platform is None else architecture(profile)


def bootstrapper(engine: Engine, reporter: Reporter = QUIET) -> str:
    """Build the image with dnf that makes root file systems from RPM packages, so that no host needs dnf."""
    tools = next((one for one in load().values() if one.builds_gdb_index), None)
    if tools is None:
        raise BaseImageUnavailable("no profile has a dnf that makes bases", hint="connect to a registry")
    return tool("bootstrap-dnf", "bootstrap-dnf", tools, engine, reporter)


def _with_dnf(tar: Path, engine: Engine, profile: Profile, reporter: Reporter, step: Step) -> None:
    """Make a root file system from RPM packages with dnf in a container."""
    how = profile.base.bootstrap
    if how is None or not how.packages:
        raise BaseImageUnavailable(f"{profile.title} does not say how it is bootstrapped", hint="connect to a registry")
    sources = package_sources(profile)
    spec = ContainerSpec(
        image=bootstrapper(engine, reporter),
        argv=[
            "/usr/libexec/vmbox/bootstrap-dnf",
            how.suite,
            architecture(profile),
            *how.packages,
        ],
        env={"REPOSITORIES": sources["vmbox.repo"].decode(), "KEYS": sources["vmbox.asc"].decode()},
        network="host",
        hardened=False,
        as_caller=False,
    )
    try:
        with tar.open("wb") as file:
            # dnf's messages are on stderr, because stdout is the root file system.
            for piece in engine.run(spec, on_stderr=lambda said: _say_last(step, said)):
                file.write(piece)
    except EngineFailed as error:
        raise BaseImageUnavailable(
            f"dnf cannot install {' '.join(how.packages)}",
            hint="can its repositories be reached? name mirrors of them in $VMBOX_MIRRORS",
            detail=error.detail or error.message,
        ) from error


def _say_last(step: Step, said: bytes) -> None:
    """Show the newest line."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if lines:
        step.detail(lines[-1])

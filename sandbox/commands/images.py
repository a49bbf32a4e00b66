"""Images from and to registries and archives, by what they are of: a dump's kernel, or a profile."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Final

from sandbox import image as images
from sandbox.case import self_contained, store
from sandbox.case.dumps import identify
from sandbox.case.options import OpenOptions
from sandbox.case.provision import provision
from sandbox.engine import Engine, connect, labels
from sandbox.errors import (
    BaseImageUnavailable,
    ConfigurationError,
    DebuginfoError,
    DumpNotFound,
    EngineFailed,
    SessionError,
    UsageError,
    pasteable,
    refuse_empty,
    unwritable,
)
from sandbox.host import config
from sandbox.host.disk import need_space
from sandbox.host.files import STDOUT, check_output, refuse_evidence, write_output
from sandbox.model import DUMP_SCHEMES, Vmcore
from sandbox.profiles import Profile, load, platforms, select
from sandbox.progress import QUIET, Reporter
from sandbox.remote.naming import named
from sandbox.session import module_debuginfo
from sandbox.session.start import open_session

_ELSEWHERE: Final = "choose another place with -o"

ImageTarget = Vmcore | Profile
"""The subject of an image: one kernel build, or a distribution major."""


def reference(of: ImageTarget) -> str:
    """The reference of the image of `of` on an engine."""
    return self_contained.reference(of) if isinstance(of, Vmcore) else images.reference(of)


class ImageKind(StrEnum):
    """The purposes of images, in the order of removal: an image goes before its base."""

    KERNEL = "kernel"
    """Self-contained, of one kernel build."""
    PROFILE = "image"
    """Of a profile."""
    TOOL = "tool"
    """vmbox itself needs it."""
    BASE = "base"
    """Made from packages, for those of profiles."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSummary:
    """One image of vmbox's on an engine."""

    ref: str
    kind: ImageKind
    profile: str
    size: int
    """Bytes, with the layers that it shares with others."""
    release: str = ""
    arch: str = ""
    vendor: str = ""
    build_id: str = ""
    check: str = ""
    """How the package of its debuginfo was verified, as `Verification`; from a label of the image."""
    outdated: bool = False
    """The image of a profile differs from what would be built now."""
    built: str = ""
    """When, as ISO 8601 has it, UTC."""
    id: str = field(default="", repr=False)


def resolve_target(what: str) -> ImageTarget:
    """Finds the subject that a user names: a dump by its path, or a profile by its name."""
    refuse_empty(what)
    try:
        there = what.startswith(DUMP_SCHEMES) or Path(what).exists()
    except OSError:  # a directory above it is closed to us: identifying says so
        there = True
    if there:
        return identify(named(what))
    if what in load():
        return load()[what]
    raise DumpNotFound(f"{what} is neither a dump nor a profile", hint="vmbox doctor lists the profiles")


def build(of: ImageTarget, options: OpenOptions, *, modules: bool = True, reporter: Reporter = QUIET) -> str:
    """Makes the image of `of` on the engine, with what has to be fetched for it; returns its reference.

    The image of a kernel gets the debug files of the modules that the dump has loaded, for which the dump is opened
    once; without `modules` it is not.
    """
    with closing(connect(options.engine)) as engine:
        if isinstance(of, Profile):
            return images.ensure(of, engine, reporter)
        ready = provision(
            of, select(of, override=options.image), options, engine, reporter, rebuild=True, always_index=True
        )
        if modules:
            _add_modules(of.path, ready.debuginfo.vmlinux, options, reporter)
        return self_contained.build(of, ready.debuginfo, engine, reporter, profile=ready.profile, base=ready.image)


def bill_of(ref: str, engine: str | None, reporter: Reporter = QUIET) -> bytes:
    """The bill of materials of an image on the engine, as CycloneDX JSON. See `sandbox.commands.sbom`."""
    from sandbox.commands import sbom

    with closing(connect(engine)) as connected:
        return sbom.write(ref, connected, reporter)


def _add_modules(dump: Path, vmlinux: Path, options: OpenOptions, reporter: Reporter) -> None:
    from sandbox.case.container import close
    from sandbox.debuginfo.modules import fetch_modules

    was_open = store.find(dump, engine=options.engine) is not None
    try:
        session, _ = open_session(dump, options, reporter)
        with session:
            names = module_debuginfo.loaded_modules(session)
            case = session.case
        if not was_open:
            close(case)
        if names:
            missing = fetch_modules(vmlinux, names, reporter).missing
            if missing:
                reporter.notice(module_debuginfo.lacks(missing))
    except (SessionError, DebuginfoError) as error:
        reporter.notice(f"without debug files of modules: {error.message}")


def list_images(engine_name: str | None) -> list[ImageSummary]:
    """All images of vmbox's on the engine: of kernels, of profiles, and bases made from packages."""
    with closing(connect(engine_name)) as engine:
        return _listed(engine)


def _listed(engine: Engine) -> list[ImageSummary]:
    found: list[ImageSummary] = []
    own = engine.info().arch
    for image in engine.images({labels.IMAGE: ""}):
        label = image.labels[labels.IMAGE]
        built = datetime.fromtimestamp(image.built, UTC).isoformat(timespec="seconds")
        for ref in image.tags or (image.id,):
            if label == labels.KERNEL_IMAGE:
                facts = self_contained.describe(image.labels)
                found.append(
                    ImageSummary(
                        ref=ref,
                        kind=ImageKind.KERNEL,
                        profile=facts["profile"],
                        size=image.size,
                        release=facts["release"],
                        arch=facts["arch"],
                        vendor=facts["vendor"],
                        build_id=facts["build_id"],
                        built=built,
                        check=facts["check"],
                        id=image.id,
                    )
                )
            else:
                profile = label.removeprefix("base-")
                of = platforms.by_name(profile)
                kind = ImageKind.BASE if profile != label else ImageKind.TOOL if of is None else ImageKind.PROFILE
                # Only the tag is compared: in a registry, the rest of the name is another.
                current = None if of is None else images.reference(of).rpartition(":")[2]
                found.append(
                    ImageSummary(
                        ref=ref,
                        kind=kind,
                        profile=profile,
                        size=image.size,
                        arch=own if of is None or of.platform is None else platforms.arch_of(of.platform),
                        built=built,
                        id=image.id,
                        outdated=kind is ImageKind.PROFILE and ref.rpartition(":")[2] != current,
                    )
                )
    return sorted(found, key=lambda one: (one.kind, one.profile, one.release, one.ref))


def push(of: ImageTarget, registry: str | None, options: OpenOptions, reporter: Reporter = QUIET) -> str:
    """Sends the image of `of` to a registry, building it if it is not there; returns what the registry calls it."""
    there = self_contained.remote_reference(reference(of), _registry(registry))
    ref = _ensure_built(of, options, reporter)
    with closing(connect(options.engine)) as engine:
        engine.tag(ref, there)
        try:
            with reporter.step(f"Pushing {there}") as step:
                for line in engine.push(there):
                    step.detail(line)
        except EngineFailed as error:
            host = there.partition("/")[0]
            hint = f"does {host} answer, and are you logged in to it? docker login {host}, or podman login {host}"
            raise EngineFailed(error.message, hint=hint, detail=error.detail) from error
        finally:
            # A second name, for the journey only.
            engine.remove_image(there)
    return there


def pull(of: ImageTarget, registry: str | None, options: OpenOptions, reporter: Reporter = QUIET) -> str:
    """Brings the image of `of` from a registry; returns what the engine calls it."""
    there = self_contained.remote_reference(reference(of), _registry(registry))
    with closing(connect(options.engine)) as engine:
        try:
            machine = platforms.foreign_arch(of.arch, engine.info()) if isinstance(of, Vmcore) else None
            platform = None if machine is None else platforms.platform(machine)
            with reporter.step(f"Pulling {there}") as step:
                for line in engine.pull(there, platform=platform):
                    step.detail(line)
        except BaseImageUnavailable as error:
            # Who is not logged in has been told so.
            hint = error.hint if error.login_needed else "push it first, where it was built: vmbox image push"
            raise BaseImageUnavailable(error.message, hint=hint, detail=error.detail) from error
        engine.tag(there, reference(of))
        engine.remove_image(there)
    return reference(of)


def check_place(of: ImageTarget, output: Path, *, hint: str) -> None:
    """Raises `UsageError` or `NoSpace` where what is made for `of` cannot be written, or would replace the dump."""
    if isinstance(of, Vmcore):
        refuse_evidence(output, (of.path, *of.files))
    try:
        check_output(output)
    except OSError as error:
        raise unwritable(output, error, hint=hint) from error


def save(of: ImageTarget, output: Path, options: OpenOptions, reporter: Reporter = QUIET) -> str:
    """Writes the image of `of` as an archive, building it if it is not there. See `write_output` for `output`."""
    check_place(of, output, hint=_ELSEWHERE)
    ref = _ensure_built(of, options, reporter)
    with closing(connect(options.engine)) as engine, reporter.step(f"Saving {ref}", unit="B") as step:

        def pieces() -> Iterator[bytes]:
            for piece in engine.save(ref):
                yield piece
                step.advance(len(piece))

        image = engine.image(ref)
        if output != STDOUT and (output.is_file() or not output.exists()):
            place = Path(os.path.realpath(output)).parent
            need_space(place, image.size if image else 0, f"the archive of {ref}", hint=_ELSEWHERE)
        try:
            write_output(output, pieces(), durable=True)
        except BrokenPipeError:
            raise  # the reader left
        except OSError as error:
            raise unwritable(output, error, hint=f"is there room? df -h {pasteable(output.parent)}") from error
    return ref


def load_archive(archive: Path | BinaryIO, engine_name: str | None, reporter: Reporter = QUIET) -> list[str]:
    """Takes in what `save` wrote, a file or a stream of it; returns what the engine calls it."""
    if isinstance(archive, Path) and (archive.is_dir() or not archive.exists()):
        # A pipe will do: <(zstd -dc FILE)
        what = "is a directory" if archive.is_dir() else "no such file"
        raise UsageError(f"{archive}: {what}", hint="it is what vmbox image save wrote")
    name = archive.name if isinstance(archive, Path) else "what comes in"
    with closing(connect(engine_name)) as engine, reporter.step(f"Loading {name}"):
        try:
            return engine.load(archive)
        except EngineFailed as error:
            hint = "it has to be what vmbox image save, docker save or podman save wrote"
            raise EngineFailed(error.message, hint=hint, detail=error.detail) from error


def prune(
    engine_name: str | None, *, everything: bool = False, older: int | None = None, reporter: Reporter = QUIET
) -> list[ImageSummary]:
    """Removes images that profiles have outgrown, also those built more than `older` seconds ago, or all of vmbox's.

    Returns those that went. Open cases keep theirs.
    """
    before = "" if older is None else datetime.fromtimestamp(time.time() - older, UTC).isoformat(timespec="seconds")
    with closing(connect(engine_name)) as engine:
        in_use = {case.image for case in store.open_cases()}
        gone: list[ImageSummary] = []
        # Kernels' images stand on those of profiles, and those on bases.
        removal_order = list(ImageKind)
        for one in sorted(_listed(engine), key=lambda one: removal_order.index(one.kind)):
            if one.ref in in_use or not (everything or one.outdated or one.built < before):
                continue
            try:
                engine.remove_image(one.ref)
            except EngineFailed as error:
                reporter.notice(f"{one.ref} stays: {error.message}")
            else:
                gone.append(one)
        return gone


def _ensure_built(of: ImageTarget, options: OpenOptions, reporter: Reporter) -> str:
    with closing(connect(options.engine)) as engine:
        if engine.image(reference(of)) is not None:
            return reference(of)
    return build(of, options, reporter=reporter)


def _registry(given: str | None) -> str:
    registry = given or config.current().registry
    if registry is None:
        raise ConfigurationError(
            "no registry is configured", hint="give it: --registry HOST[:PORT][/PATH], or export VMBOX_REGISTRY=…"
        )
    return registry

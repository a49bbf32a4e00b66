"""Self-contained images: crash and the debuginfo of one kernel build in one image.

For a registry, a USB stick, an engine elsewhere: where such an image is, a dump of that kernel is opened with it and
nothing is fetched. Its name is made of what every dump of the build says, so that it is found without a list.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from sandbox.case.places import SESSION_VERSION
from sandbox.debuginfo import trust
from sandbox.debuginfo.proof import Identity, prove
from sandbox.engine import Engine, Image, labels
from sandbox.errors import (
    BaseImageUnavailable,
    ConfigurationError,
    DebuginfoMismatch,
    EngineFailed,
    ImageBuildFailed,
    ImageNotInRegistry,
    pasteable,
)
from sandbox.host import config, paths
from sandbox.host.disk import need_space
from sandbox.host.locks import locked
from sandbox.host.tempdirs import scratch_directory
from sandbox.model import Debuginfo, Verification, Vmcore
from sandbox.profiles import Profile
from sandbox.progress import QUIET, Reporter

DIRECTORY: Final = Path("/case/debuginfo")
"""The directory of vmlinux and modules in them: where other cases have these mounted."""


def reference(vmcore: Vmcore) -> str:
    """The reference of the image of a dump's kernel on an engine."""
    return f"localhost/vmbox/kernel:{_key(vmcore)}"


def remote_reference(ref: str, registry: str) -> str:
    """The reference in a registry of the image that an engine calls `ref`; `registry` is HOST[:PORT][/PATH].

    Raises `ConfigurationError` for a URL or credentials: references have neither, and are shown.
    """
    if "@" in registry or "://" in registry:
        raise ConfigurationError(
            f"{registry.rpartition('@')[2]} is no registry, as it is given",
            hint="HOST[:PORT][/PATH]; who you are there: docker login HOST, or podman login HOST",
        )
    return f"{registry.rstrip('/')}/{ref.removeprefix('localhost/vmbox/')}"


def is_there(vmcore: Vmcore, engine: Engine) -> bool:
    """Whether the engine has an image for the dump's kernel, or the configured registry may have one."""
    return config.current().registry is not None or _on_engine(vmcore, engine) is not None


def _on_engine(vmcore: Vmcore, engine: Engine, *, by_label: bool = True) -> Image | None:
    image = engine.image(reference(vmcore))
    if image is None and by_label and vmcore.build_id is not None:
        # One made of another dump of the build, which did not tell its build-id, goes by another name.
        image = next(
            iter(engine.images({labels.IMAGE: labels.KERNEL_IMAGE, labels.KERNEL_BUILD_ID: vmcore.build_id})), None
        )
    return image


def find(
    vmcore: Vmcore,
    engine: Engine,
    reporter: Reporter = QUIET,
    *,
    platform: str | None = None,
    by_label: bool = True,
) -> tuple[Image, Debuginfo] | None:
    """The image of exactly the dump's kernel, on the engine or in the configured registry; None when there is none.

    `platform` is what the engine calls the dump's machine, where that is not the engine's. Without `by_label`, one of
    another name is not looked for: the engine would look at each of its images.
    """
    ref = reference(vmcore)
    image = _on_engine(vmcore, engine, by_label=by_label)
    if image is None and (registry := config.current().registry) is not None:
        image = _pulled(ref, registry, engine, reporter, platform)
    if image is None:
        return None
    if image.labels.get(labels.SESSION, str(SESSION_VERSION)) != str(SESSION_VERSION):
        again = f"vmbox image build {pasteable(vmcore.path)}"
        reporter.notice(f"{ref} is of another version of vmbox, and is not used; to make it again: {again}")
        return None
    found = Identity(
        build_id=image.labels.get(labels.KERNEL_BUILD_ID) or None,
        banners=tuple(image.labels[name] for name in (labels.KERNEL_BANNER,) if image.labels.get(name)),
        dwarf=True,
    )
    try:
        proof = prove(vmcore, found, name=ref)
    except DebuginfoMismatch as error:
        reporter.notice(f"{error.message}; it is not used")
        return None
    verification = _verification(image.labels.get(labels.DEBUGINFO_CHECK, ""))
    if why := trust.objection(verification, private=True):
        reporter.notice(f"{ref} is not used: {why}")
        return None
    debuginfo = Debuginfo(
        directory=DIRECTORY,
        vmlinux=DIRECTORY / "vmlinux",
        build_id=found.build_id,
        origin=f"image {ref}",
        proof=proof,
        verification_detail=image.labels.get(labels.DEBUGINFO_VERIFIED, ""),
        verification=verification,
        in_image=True,
    )
    return image, debuginfo


def _verification(label: str) -> Verification:
    """Reads a label, which a later vmbox may have written."""
    return Verification(label) if label in set(Verification) else Verification.UNKNOWN


def _pulled(ref: str, registry: str, engine: Engine, reporter: Reporter, platform: str | None) -> Image | None:
    there = remote_reference(ref, registry)
    try:
        with reporter.step(f"Looking for {there}") as step:
            for line in engine.pull(there, platform=platform):
                step.detail(line)
            engine.tag(there, ref)
            engine.remove_image(there)
    except ImageNotInRegistry:
        return None
    except (BaseImageUnavailable, EngineFailed) as error:
        login = isinstance(error, BaseImageUnavailable) and error.login_needed
        hint = f"\n{error.hint}" if login else ""
        reporter.notice(f"the registry cannot be asked: {error.message}{hint}")
        return None
    return engine.image(ref)


def build(
    vmcore: Vmcore,
    debuginfo: Debuginfo,
    engine: Engine,
    reporter: Reporter = QUIET,
    *,
    profile: Profile,
    base: str,
) -> str:
    """Makes the image of a dump's kernel out of the image `base` of a profile, and returns its reference.

    An image that exists is built again: it may lack modules that have been fetched since.
    """
    ref = reference(vmcore)
    carried = {
        labels.IMAGE: labels.KERNEL_IMAGE,
        labels.PROFILE: profile.name,
        labels.SESSION: str(SESSION_VERSION),
        labels.KERNEL_RELEASE: vmcore.release or "",
        labels.KERNEL_VERSION: vmcore.utsname_version or "",
        labels.KERNEL_BUILD_ID: debuginfo.build_id or vmcore.build_id or "",
        labels.KERNEL_BANNER: vmcore.banner or "",
        labels.KERNEL_VENDOR: vmcore.vendor or "",
        labels.KERNEL_ARCH: vmcore.arch or "",
        labels.DEBUGINFO_ORIGIN: debuginfo.origin,
        labels.DEBUGINFO_VERIFIED: debuginfo.verification_detail,
        labels.DEBUGINFO_CHECK: debuginfo.verification,
    }
    before = engine.image(ref)
    with (
        locked(paths.cache_dir() / "locks" / f"image-{_key(vmcore)}", reporter, f"building {ref}"),
        _context(debuginfo.directory) as context,
        reporter.step(f"Building {ref}") as step,
    ):
        for line in engine.build(context, ref, labels=carried, args={"BASE": base}, platform=profile.platform):
            step.detail(line)
    made = engine.image(ref)
    if made is None:
        raise ImageBuildFailed(f"the engine built {ref} but does not have it", hint="run vmbox doctor")
    if before is not None and before.id != made.id:
        engine.remove_image(before.id)
    return ref


_CONTAINERFILE: Final = b"""\
ARG BASE
FROM ${BASE}
COPY debuginfo /case/debuginfo
"""


@contextmanager
def _context(directory: Path) -> Iterator[IO[bytes]]:
    """The build context: vmlinux and the modules beside it, readable for every user that a case may run as."""
    files = [directory / "vmlinux", *sorted((directory / "modules").glob("*"))]
    need_space(paths.cache_dir(), sum(file.stat().st_size for file in files), "a build context")
    with scratch_directory() as scratch:
        with tarfile.open(scratch / "context.tar", "w", format=tarfile.PAX_FORMAT) as tar:
            (scratch / "Containerfile").write_bytes(_CONTAINERFILE)
            tar.add(scratch / "Containerfile", "Containerfile", filter=_plain)
            for file in files:
                tar.add(file, f"debuginfo/{file.relative_to(directory)}", filter=_plain)
        with (scratch / "context.tar").open("rb") as context:
            yield context


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def describe(carried: Mapping[str, str]) -> dict[str, str]:
    """Reads the labels `carried` by a self-contained image: release, build_id, vendor, arch, profile, and check (as
    `Debuginfo.verification`: how the package its debuginfo is from was verified).
    """
    names = {
        "release": labels.KERNEL_RELEASE,
        "build_id": labels.KERNEL_BUILD_ID,
        "vendor": labels.KERNEL_VENDOR,
        "arch": labels.KERNEL_ARCH,
        "profile": labels.PROFILE,
        "check": labels.DEBUGINFO_CHECK,
    }
    return {name: carried.get(label, "") for name, label in names.items()}


def _key(vmcore: Vmcore) -> str:
    """The tag that all dumps of one kernel build have in common."""
    if vmcore.build_id is not None:
        return vmcore.build_id
    said = f"{vmcore.release}\n{vmcore.utsname_version}\n{vmcore.arch}"
    return "uname-" + hashlib.sha256(said.encode()).hexdigest()[:40]

"""The bill of materials of an image (`vmbox image build --sbom`): what its own package database says, as CycloneDX.

Asked in a container of the image that has no network and sees no dump. cyclonedx-python-lib writes it, and is needed
for nothing else: an optional extra, vmbox-crash[sbom].
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sandbox.engine import ContainerSpec, Engine, Image, labels
from sandbox.errors import EngineFailed, ImageBuildFailed, missing_extra
from sandbox.progress import QUIET, Reporter
from sandbox.version import __version__

if TYPE_CHECKING:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component

_ASK: Final = r"""
. /etc/os-release; printf 'os\t%s\t%s\n' "$ID" "${VERSION_ID-}"
if command -v dpkg-query >/dev/null; then
    dpkg-query -W -f='deb\t${Package}\t${Version}\t${Architecture}\t${source:Package}\t-\n'
else
    rpm -qa --qf 'rpm\t%{NAME}\t%{EPOCH}:%{VERSION}-%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n'
fi
"""
"""Prints what the distribution calls itself, and its packages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package that is installed in an image, as its database has it."""

    kind: str
    """deb or rpm, as package URLs have it."""
    name: str
    version: str
    """Without an epoch of 0."""
    arch: str
    source: str
    """Name of the source package, or of its file."""
    license: str
    """As rpm states it; empty for deb, whose database does not."""


def check_library() -> None:
    """Raises `ConfigurationError` without the library that writes bills: to build an image takes minutes."""
    try:
        import cyclonedx  # noqa: F401
    except ImportError:
        raise missing_extra("a bill of materials", "sbom", "cyclonedx-python-lib") from None


def write(ref: str, engine: Engine, reporter: Reporter = QUIET) -> bytes:
    """The bill of image `ref` as JSON (CycloneDX 1.6). Raises `ConfigurationError` without the library."""
    check_library()
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    image = engine.image(ref)
    if image is None:
        raise ImageBuildFailed(f"the engine does not have {ref}", hint="vmbox image list")
    with reporter.step(f"Listing the packages of {ref}"):
        said = _asked(ref, engine)
    distribution, packages = read(said)
    bom = Bom(components=[_component(package, distribution) for package in packages])
    bom.metadata.component = whole = _whole(ref, image)
    bom.metadata.tools.components.add(_vmbox())
    if (kernel := _kernel(image.labels)) is not None:
        bom.components.add(kernel)
    bom.register_dependency(whole, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=2).encode() + b"\n"


def read(said: str) -> tuple[tuple[str, str], list[Package]]:
    """((distribution, its version), packages) of what an image answered."""
    distribution = ("", "")
    packages = []
    for line in said.splitlines():
        kind, *columns = line.split("\t")
        if kind == "os" and len(columns) == 2:
            distribution = (columns[0], columns[1])
        elif kind in {"deb", "rpm"} and len(columns) == 5:
            name, version, arch, source, license_ = columns
            version = re.sub(r"^(\(none\)|0):", "", version)
            if name != "gpg-pubkey":  # rpm keeps keys among its packages
                packages.append(
                    Package(
                        kind=kind,
                        name=name,
                        version=version,
                        arch=arch,
                        source=source,
                        license="" if license_ == "-" else license_,
                    )
                )
    return distribution, packages


def _asked(ref: str, engine: Engine) -> str:
    spec = ContainerSpec(image=ref, argv=["sh", "-c", _ASK], as_caller=False)
    try:
        return b"".join(engine.run(spec)).decode(errors="replace")
    except EngineFailed as error:
        raise ImageBuildFailed(
            f"the packages of {ref} cannot be listed", hint="its base has no package database", detail=error.message
        ) from error


def _component(package: Package, distribution: tuple[str, str]) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    name, version = distribution
    qualifiers = {"arch": package.arch, "distro": f"{name}-{version}".rstrip("-")}
    if package.kind == "rpm" and ":" in package.version:
        epoch, _, rest = package.version.partition(":")
        purl = PackageURL("rpm", name, package.name, rest, qualifiers | {"epoch": epoch})
    else:
        purl = PackageURL(package.kind, name, package.name, package.version, qualifiers)
    return Component(
        type=ComponentType.LIBRARY,
        name=package.name,
        version=package.version,
        purl=purl,
        bom_ref=purl.to_string(),
        licenses=[DisjunctiveLicense(name=package.license)] if package.license else (),
        properties=[Property(name="vmbox:source-package", value=package.source)] if package.source else (),
    )


def _whole(ref: str, image: Image) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    name, _, tag = ref.rpartition(":")
    return Component(type=ComponentType.CONTAINER, name=name, version=image.id or tag, bom_ref=ref)


def _vmbox() -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(type=ComponentType.APPLICATION, name="vmbox", version=__version__)


def _kernel(carried: Mapping[str, str]) -> Component | None:
    """The debuginfo in a self-contained image, which no package manager has put there."""
    from cyclonedx.model.component import Component, ComponentType

    release = carried.get(labels.KERNEL_RELEASE)
    if not release:
        return None
    return Component(
        type=ComponentType.DATA,
        name="vmlinux",
        version=release,
        bom_ref=f"vmlinux-{release}",
        description="debug information of exactly one kernel build",
        properties=list(_properties(carried)),
    )


def _properties(carried: Mapping[str, str]) -> Iterator[Property]:
    from cyclonedx.model import Property

    told = {
        "build-id": labels.KERNEL_BUILD_ID,
        "utsname-version": labels.KERNEL_VERSION,
        "origin": labels.DEBUGINFO_ORIGIN,
        "verified": labels.DEBUGINFO_VERIFIED,
    }
    for name, label in told.items():
        if carried.get(label):
            yield Property(name=f"vmbox:{name}", value=carried[label])

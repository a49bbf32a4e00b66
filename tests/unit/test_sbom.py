"""A bill of materials is valid by the standard's own schema. The engine is a fake with one image."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from typer.testing import CliRunner

from sandbox.cli import app
from sandbox.commands import sbom
from sandbox.engine import ContainerSpec, Image, labels

DEBIAN = """\
os	debian	12
deb	crash	8.0.2-1	amd64	crash	-
deb	libc6	2.36-9+deb12u13	amd64	glibc	-
deb	libstdc++6	12.2.0-14	amd64	gcc-12	-
deb	util-linux	1:2.38.1-5	amd64	util-linux	-
"""
ROCKY = """\
os	rocky	9.4
rpm	crash	(none):8.0.4-2.el9	x86_64	crash-8.0.4-2.el9.src.rpm	GPLv3
rpm	dbus	1:1.12.20-8.el9	x86_64	dbus-1.12.20-8.el9.src.rpm	(GPLv2+ or AFL) and GPLv2+
rpm	gpg-pubkey	(none):350d275d-6279464b	(none)	(none)	pubkey
"""


class Answering:
    """A fake engine: one image, whose package database says `said`."""

    def __init__(self, said: str, labels: dict[str, str]) -> None:
        self.said, self.labels = said, labels

    def image(self, ref: str) -> Image:
        return Image(id="sha256:" + "a" * 64, tags=(ref,), labels=self.labels, size=1)

    def run(self, spec: ContainerSpec) -> Iterator[bytes]:
        assert spec.network == "none"
        assert not spec.binds
        yield self.said.encode()


def valid(text: bytes) -> Any:
    """Parse `text`, and validate it with the schema of CycloneDX 1.6."""
    place = files("cyclonedx.schema") / "_res"
    known = [json.loads((place / name).read_text()) for name in SCHEMAS]
    registry = Registry().with_resources((one["$id"], Resource.from_contents(one)) for one in known)
    document = json.loads(text)
    jsonschema.Draft7Validator(known[0], registry=registry).validate(document)
    return document


SCHEMAS = ("bom-1.6.SNAPSHOT.schema.json", "spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")


@pytest.mark.parametrize("said", [DEBIAN, ROCKY], ids=["debian", "rocky"])
def test_the_bill_is_valid(said: str) -> None:
    document = valid(sbom.write("localhost/vmbox/x:1", Answering(said, {})))  # type: ignore[arg-type]
    names = [one["name"] for one in document["components"]]
    assert sorted(names) == sorted(line.split("\t")[1] for line in said.splitlines()[1:] if "gpg-pubkey" not in line)
    assert document["metadata"]["component"]["type"] == "container"


def test_package_urls() -> None:
    told = {one["name"]: one for one in valid(sbom.write("r:1", Answering(DEBIAN, {})))["components"]}  # type: ignore[arg-type]
    assert told["libstdc++6"]["purl"] == "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12"
    told = {one["name"]: one for one in valid(sbom.write("r:1", Answering(ROCKY, {})))["components"]}  # type: ignore[arg-type]
    assert told["dbus"]["purl"] == "pkg:rpm/rocky/dbus@1.12.20-8.el9?arch=x86_64&distro=rocky-9.4&epoch=1"
    assert told["crash"]["version"] == "8.0.4-2.el9"
    assert told["crash"]["licenses"] == [{"license": {"name": "GPLv3"}}]


def test_debuginfo_is_named() -> None:
    carried = {
        labels.KERNEL_RELEASE: "6.1.0-56-amd64",
        labels.KERNEL_BUILD_ID: "ab12",
        labels.DEBUGINFO_ORIGIN: "http://x/y",
    }
    document = valid(sbom.write("r:1", Answering(DEBIAN, carried)))  # type: ignore[arg-type]
    (kernel,) = [one for one in document["components"] if one["name"] == "vmlinux"]
    assert kernel["version"] == "6.1.0-56-amd64"
    assert {"name": "vmbox:build-id", "value": "ab12"} in kernel["properties"]


def test_a_library_that_is_lacking_is_said_before_an_image_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx", None)
    monkeypatch.setattr("sandbox.commands.images.build", lambda *_, **__: pytest.fail("an image is built"))
    done = CliRunner().invoke(app, ["image", "build", "debian-12", "--sbom", str(tmp_path / "bill.json")])
    assert done.exit_code == 70
    assert "vmbox-crash[sbom]" in done.stderr

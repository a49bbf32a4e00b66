"""The bill of materials of a real image, from its own package database."""

from __future__ import annotations

from urllib.parse import unquote

from engines import EngineUnderTest
from unit.test_sbom import valid


def test_of_the_newest_crash(docker_engine: EngineUnderTest) -> None:
    done = docker_engine.run("image", "build", "latest", "--sbom", "-")
    assert done.returncode == 0, done.stderr
    document = valid(done.stdout)
    told = {one["name"]: one for one in document["components"]}
    assert {"crash", "libc6", "python3-drgn"} <= set(told)
    assert unquote(told["crash"]["purl"]).startswith(f"pkg:deb/debian/crash@{told['crash']['version']}?arch=")
    refused = docker_engine.run("image", "build", "latest", "--sbom", "/nowhere/bill.json")
    assert refused.returncode == 2
    assert b"/nowhere/bill.json cannot be written: No such file or directory" in refused.stderr

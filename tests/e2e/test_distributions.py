"""Images of Debian and Ubuntu, made of nothing but their packages; on demand, for their archives are big and far.

Of kernels that cannot be had here, a Debian kernel's dump is opened with their crash.
"""

from __future__ import annotations

import json

import pytest

from e2e.conftest import Dumps
from engines import EngineUnderTest
from sandbox import profiles
from sandbox.engine import ContainerSpec

OPENED = {
    "debian-14": "6.12",
    "ubuntu-16.04": None,
    "ubuntu-18.04": None,
    "ubuntu-20.04": None,
    "ubuntu-22.04": "5.10",
    "ubuntu-24.04": "6.1",
    "ubuntu-26.04": "6.12",
}
"""By profile, the kernel whose dump its crash opens; None where it is too old for any there is."""


@pytest.mark.on_demand("FAMILIES")
@pytest.mark.parametrize("profile", OPENED)
def test_image(docker_engine: EngineUnderTest, dumps: Dumps, profile: str) -> None:
    kernel = OPENED[profile]
    built = docker_engine.run("image", "build", profile)
    assert built.returncode == 0, built.stderr.decode()
    ref = built.stdout.decode().strip()
    image = docker_engine.engine.image(ref)
    assert image is not None
    assert image.size < 400_000_000
    try:
        said = b"".join(docker_engine.engine.run(ContainerSpec(image=ref, argv=["crash", "--version"]))).decode()
        # What the profile says of its crash is so.
        assert f"crash {profiles.by_name(profile).crash.version}" in said.replace("++", "")
        if kernel is None:
            return
        dump = str(dumps(kernel))
        done = docker_engine.run("run", dump, "--image", profile, "--with", "crash", "--", "bt", "--", "sys")
        (case,) = (one for one in json.loads(docker_engine.run("list", "--json").stdout) if one["dump"] == dump)
        docker_engine.run("close", dump)
        assert done.returncode == 0, done.stderr.decode()
        assert b"sysrq_handle_crash" in done.stdout
        assert (case["profile"], case["image"]) == (profile, ref)
    finally:
        docker_engine.engine.remove_image(ref)

"""Registries that require a login, and tags that move: Debian's docker-registry on loopback."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import EngineUnderTest
from registries import registry
from sandbox import image, profiles
from sandbox.engine import Engine
from upkeep import probe

USER = "maria:$2b$04$2DO9VkjuB8IVgpUrCywJTud1awc7T5gjsjarSje2dbzdsCwdBqLwe\n"
"""The password is "secret"."""

TINY = """\
title = "Tiny"
[base]
images = ["localhost/vmbox/test-base:1"]
[image]
fragments = ["base", "session"]
[crash]
version = "9"
"""


@contextmanager
def _logged_in(user: EngineUnderTest, address: str) -> Iterator[None]:
    """Write what docker login and podman login write, where the engine under test looks for it."""
    file = user.base / ("home/.docker/config.json" if user.name == "docker" else "run/containers/auth.json")
    word = base64.b64encode(b"maria:secret").decode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": {address: {"auth": word}}}))
    for path in (file.parent, file):
        os.chown(path, user.uid, user.gid)
    try:
        yield
    finally:
        file.unlink()


@pytest.mark.usefixtures("base")
def test_the_engines_own_credentials(engine: EngineUnderTest, tmp_path: Path) -> None:
    config = engine.directory()
    (config / "images").mkdir()
    (config / "images" / "tiny.toml").write_text(TINY)

    def vmbox(*arguments: str, status: int = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        env = {**engine.env, "VMBOX_CONFIG_DIR": str(config)}
        command = [*engine.vmbox, "image", *arguments]
        done = subprocess.run(command, env=env, input=stdin, capture_output=True, check=False, timeout=300)
        assert done.returncode == status, (command, done.stdout, done.stderr.decode())
        return done

    ref = vmbox("build", "tiny").stdout.decode().strip()
    with registry(tmp_path / "registry", htpasswd=USER) as address:
        there = f"{address}/vmbox/{ref.rpartition('/')[2]}"
        try:
            refused = vmbox("push", "tiny", "--registry", f"{address}/vmbox", status=22).stderr.decode()
            assert f"docker login {address}, or podman login {address}" in refused
            with _logged_in(engine, address):
                pushed = vmbox("push", "tiny", "--registry", f"{address}/vmbox").stdout.decode()
                assert pushed.strip() == there
                engine.engine.remove_image(ref)
                assert vmbox("pull", "tiny", "--registry", f"{address}/vmbox").stdout.decode().strip() == ref
            # The image exists, and only a user with a login may know.
            refused = vmbox("pull", "tiny", "--registry", f"{address}/vmbox", status=30).stderr.decode()
            assert f"docker login {address}, or podman login {address}" in refused
            assert "vmbox image push" not in refused
            # Through a pipe, to a host without a registry.
            saved = vmbox("save", "tiny", "-o", "-").stdout
            engine.engine.remove_image(ref)
            assert vmbox("load", "-", stdin=saved).stdout.decode().strip() == ref
        finally:
            engine.engine.remove_image(ref)


def test_the_pinned_digest_is_pulled(
    api: Engine, base: str, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config" / "images"
    config.mkdir(parents=True)
    moving = "docker.io/library/moving:stable"
    (config / "moving.toml").write_text(TINY.replace("localhost/vmbox/test-base:1", moving))
    (config / "digests.toml").write_text(f'"docker.io/library/other:1" = "sha256:{"0" * 64}"\n')
    with registry(tmp_path / "registry") as address:
        monkeypatch.setenv("VMBOX_CONFIG_DIR", str(config.parent))
        monkeypatch.setenv("VMBOX_MIRRORS", f"docker.io={address}")
        tag = f"{address}/library/moving:stable"
        _send(api, base, tag)
        places = ["--pin-to", str(config / "digests.toml"), "--memory", str(tmp_path / "memory")]
        monkeypatch.setattr(sys, "argv", ["probe", "moving", "--pin", *places])
        _forget_profiles()
        try:
            assert probe.main() == 0
            _forget_profiles()
            digest = profiles.digests()[moving]
            assert "docker.io/library/other:1" in profiles.digests()
            # The tag is moved.
            api.import_rootfs(rootfs, tag, {"vmbox.test": "moved"})
            list(api.push(tag))
            api.remove_image(tag)
            pulled = image.ensure_base(profiles.by_name("moving"), api)
            assert pulled == f"{address}/library/moving@{digest}"
            found = api.image(pulled)
            assert found is not None
            assert found.labels["vmbox.test"] == "base"
            # An image is built on it with that name.
            built = image.ensure(profiles.by_name("moving"), api)
            assert api.image(built) is not None
            api.remove_image(built)
            api.remove_image(pulled)
        finally:
            monkeypatch.undo()
            _forget_profiles()


def _send(engine: Engine, ref: str, there: str) -> None:
    engine.tag(ref, there)
    list(engine.push(there))
    engine.remove_image(there)


def _forget_profiles() -> None:
    profiles.load.cache_clear()
    profiles.digests.cache_clear()

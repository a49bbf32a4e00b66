"""Ctrl-C while an image is built and debuginfo is on its way: nothing half is left, on any engine."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from pathlib import Path

from e2e.conftest import wait_for
from engines import EngineUnderTest
from relays import mirror


def test_ctrl_c_while_image_and_debuginfo_are_on_their_way(engine: EngineUnderTest, own_dump: Path) -> None:
    """Both are held back by a mirror, in the middle of crash's package and of the kernel's."""
    # Storage outlives a run of the tests, and one that was killed.
    engine.run("doctor", "--leaks", "--remove")
    known = set(engine.run("doctor", "--leaks").stdout.splitlines())
    before = {one.id for one in engine.engine.images({})}
    running = {one.id for one in engine.engine.containers({})}
    cache = engine.directory() / "cache"
    with mirror(r"/crash_|-dbg_") as slow:
        # The names of images tell mirrors apart: this one has to be built.
        own = {"VMBOX_CACHE_DIR": str(cache), "VMBOX_MIRRORS": f"http://deb.debian.org={slow.url}"}
        cold = replace(engine, env={**engine.env, **own, "VMBOX_WAIT_FOR_DEBUGINFO": "true"})
        words = [*cold.vmbox, "run", str(own_dump), "--", "bt"]
        with subprocess.Popen(words, env=dict(cold.env), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as opening:
            wait_for(lambda: opening.poll() is not None or _both(slow.held), 300)
            assert opening.poll() is None, opening.communicate()
            opening.send_signal(signal.SIGINT)
            said = opening.communicate(timeout=60)[1]
        assert opening.returncode == 130, said
        assert b"Traceback" not in said
        # The mirror still holds on: what waits for it has been ended.
        wait_for(lambda: {one.id for one in engine.engine.containers({})} <= running, 30)
        left = [one for one in engine.engine.images({}) if one.id not in before]
        assert [one for one in left if not any("/base-" in tag for tag in one.tags)] == []
        assert set(cold.run("doctor", "--leaks").stdout.splitlines()) <= known
    # A download goes on from its part; nothing else is there of debuginfo.
    assert list((cache / "debuginfo").iterdir()) == []


def _both(held: list[str]) -> bool:
    return any("/crash_" in path for path in held) and any("-dbg_" in path for path in held)

"""The dump is evidence: whatever is done with it, nothing of the file changes; and it opens wherever it lies."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import BY_DRGN, Dumps
from engines import EngineUnderTest
from sandbox.case.places import DUMP


def everything(path: Path) -> dict[str, Any]:
    """All that a file system tells of a file, access time included."""
    state = path.lstat()
    found: dict[str, Any] = {name: getattr(state, name) for name in dir(state) if name.startswith("st_")}
    descriptor = os.open(path, os.O_RDONLY | os.O_NOATIME)
    try:
        with contextlib.suppress(OSError):
            found["xattrs"] = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
        with os.fdopen(os.dup(descriptor), "rb") as file:
            found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    finally:
        os.close(descriptor)
    return found


def test_nothing_of_the_dump_changes(vmbox, engine: EngineUnderTest, dumps: Dumps) -> None:
    dump = dumps.copy_for(engine, dumps())
    os.setxattr(dump, "user.case", b"4711")
    # An access time older than the content: with relatime, any reading but ours would renew it.
    os.utime(dump, ns=(1_000_000_000, 2_000_000_000))
    before, beside = everything(dump), sorted(dump.parent.iterdir())
    vmbox("verify", dump)
    vmbox("info", dump)
    vmbox("dmesg", dump)
    # wr is crash's; the file is mounted as it is for each engine, whichever debugger reads it.
    asked = ("--", "bt", "--", "wr jiffies 0") if engine.name == "docker" else BY_DRGN
    writes = f"!echo x >{DUMP}; touch {DUMP}; rm -f {DUMP}; chmod 777 {DUMP}; mv {DUMP} /case/x; echo y >/case/new"
    engine.run("run", str(dump), *asked, "--", writes)
    vmbox("close", dump)
    vmbox("verify", dump)
    assert everything(dump) == before
    assert sorted(dump.parent.iterdir()) == beside


def test_verify_notices_a_changed_byte(vmbox, engine: EngineUnderTest, dumps: Dumps) -> None:
    dump = dumps.copy_for(engine, dumps())
    vmbox("verify", dump)
    with dump.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert b"content (SHA-256)" in vmbox("verify", dump, status=15).stderr


@pytest.mark.parametrize("how", ["symlink", "relative", "colons, on each engine"])
def test_ways_to_name_it(vmbox, engine: EngineUnderTest, own_dump: Path, dumps: Dumps, how: str) -> None:
    options: dict[str, Any] = {}
    if how == "symlink":
        given = engine.directory() / "link"
        given.symlink_to(own_dump)
    elif how == "relative":
        given, options = Path(own_dump.name), {"cwd": own_dump.parent}
    else:
        given = engine.directory() / "127.0.0.1-2026-11-24-22:49:44, ö" / "vmcore"  # as kdump names them, and worse
        given.parent.mkdir()
        shutil.copyfile(own_dump, given)
        given.chmod(0o644)
        given.parent.chmod(0o755)
    # With the debugger that is up first: engines mount the file for both.
    assert b"sysrq_handle_crash" in vmbox("run", given, "--with", "drgn", "--", "bt", **options).stdout
    if how.startswith("colons"):
        vmbox("close", given)

"""Split sets on a web server, which lists no files."""

from __future__ import annotations

from pathlib import Path

import dump_writer
import pytest

from archives import Archive, serve
from sandbox.case import dumps
from sandbox.remote.naming import named


@pytest.mark.slow
def test_the_parts_of_a_split_set_on_a_server_are_found_by_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMBOX_CACHE_DIR", str(tmp_path / "cache"))
    pages = {pfn: bytes([pfn % 251]) * 4096 for pfn in range(64)}
    info = b"OSRELEASE=6.1.0-50-cloud-amd64\nPAGESIZE=4096\n"
    parts = [dump_writer.kdump(pages, info, split=part) for part in ((0, 20), (20, 40), (40, 64))]
    files = {f"/crash1/vmcore.{number:02}": part for number, part in enumerate(parts, 9)}
    with serve(Archive(files=files)) as site:
        told = dumps.identify(named(f"{site.url}/crash1/vmcore.10?X-Signature=SECRET"))
        assert [one.name for one in told.files] == ["vmcore.09", "vmcore.10", "vmcore.11"]
        assert told.complete is True
        del site.files["/crash1/vmcore.11"]
        less = dumps.identify(named(f"{site.url}/crash1/vmcore.10"))
        assert (less.complete, "pages 40 to 64" in str(less.incomplete_reason)) == (False, True)

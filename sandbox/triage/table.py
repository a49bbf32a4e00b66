"""The table of a triage: rows and their groups, as index.json and index.html."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from sandbox.render import plain
from sandbox.report.html import environment
from sandbox.report.write import write as write_file
from sandbox.triage.model import Row, RowStatus
from sandbox.version import __version__

INDEX_VERSION: Final = 1
NAMES: Final = ("index.html", "index.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Dumps that have something in common."""

    name: str
    title: str
    """For people."""
    count: int
    kernels: tuple[str, ...]
    """Releases."""
    first: datetime | None
    """When the first of them crashed, UTC."""
    last: datetime | None
    keys: tuple[str, ...]
    """Keys of their rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """`index.schema.json` describes its JSON form."""

    schema_version: int
    vmbox_version: str
    made: datetime
    total: int
    ok: int
    """Dumps that were reported."""
    log: int
    """Logs and sosreports: reported as far as they go."""
    partial: int
    """Dumps that no debugger opened, whose reports contain what the dumps say by themselves, or without stacks."""
    failed: int
    """Dumps without a report."""
    no_debuginfo: int
    """Dumps that were read without debuginfo."""
    disagreements: int
    """Dumps whose stack by the debugger is another than the kernel printed."""
    left: int
    """Dumps that are not finished; 0 after a complete triage."""
    signatures: tuple[Group, ...]
    """Dumps that look like the same bug, the most frequent first."""
    kernels: tuple[Group, ...]
    vendors: tuple[Group, ...]
    days: tuple[Group, ...]
    """By day of the crash, UTC."""
    rows: tuple[Row, ...]


def of(rows: Sequence[Row], *, left: int = 0) -> Index:
    """Make the table of `rows`."""
    states = [row.status for row in rows]
    return Index(
        schema_version=INDEX_VERSION,
        vmbox_version=__version__,
        made=datetime.now(UTC).replace(microsecond=0),
        total=len(rows) + left,
        ok=states.count(RowStatus.OK),
        log=states.count(RowStatus.LOG),
        partial=states.count(RowStatus.PARTIAL),
        failed=states.count(RowStatus.FAILED),
        no_debuginfo=sum(1 for row in rows if row.no_debuginfo is not None),
        disagreements=sum(1 for row in rows if row.disagreement is not None),
        left=left,
        signatures=_groups(rows, lambda row: row.signature, lambda row: row.title or ""),
        kernels=_groups(rows, lambda row: row.release, lambda row: row.release or ""),
        vendors=_groups(rows, _vendor, lambda row: _vendor(row) or ""),
        days=tuple(sorted(_groups(rows, _day, lambda row: _day(row) or ""), key=lambda group: group.name)),
        rows=tuple(rows),
    )


def _vendor(row: Row) -> str | None:
    return row.vendor or (row.kernel_class.partition(":")[0] if row.kernel_class else None)


def _day(row: Row) -> str | None:
    return f"{row.crash_time:%Y-%m-%d}" if row.crash_time else None


def _groups(rows: Sequence[Row], name: Callable[[Row], str | None], title: Callable[[Row], str]) -> tuple[Group, ...]:
    members: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if (found := name(row)) is not None:
            members[found].append(row)
    made = []
    for found, some in members.items():
        times = sorted(row.crash_time for row in some if row.crash_time is not None)
        made.append(
            Group(
                name=found,
                title=title(some[0]),
                count=len(some),
                kernels=tuple(sorted({row.release for row in some if row.release})),
                first=times[0] if times else None,
                last=times[-1] if times else None,
                keys=tuple(row.key for row in some),
            )
        )
    return tuple(sorted(made, key=lambda group: (-group.count, group.name)))


def as_json(index: Index) -> str:
    return json.dumps(plain(index), ensure_ascii=False, indent=1).encode(errors="backslashreplace").decode()


def schema() -> Mapping[str, Any]:
    """The JSON schema (2020-12) of index.json."""
    found: Mapping[str, Any] = json.loads(
        files("sandbox.triage").joinpath("index.schema.json").read_text(encoding="utf-8")
    )
    return found


def html(index: Index) -> str:
    """Render the table as a page. Scripts are only needed to sort by a click, and only its own script may run."""
    script = files("sandbox.report").joinpath("templates/sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    pages = {row.key: row.report for row in index.rows if row.report}
    examples = {group.name: next(filter(None, map(pages.get, group.keys)), None) for group in index.signatures}
    template = environment().get_template("index.html")
    return template.render(index=index, examples=examples, script=_markup(script), digest=digest)


def _markup(script: str) -> object:
    from markupsafe import Markup

    return Markup(script)  # noqa: S704 - our own file


def write(directory: Path, index: Index, *, final: bool, evidence: Sequence[Path] = ()) -> None:
    """Write index.html, and index.json if the table is `final`, both made of the dumps `evidence`."""
    page, values = (directory / name for name in NAMES)
    write_file(page, html(index), evidence=evidence, chosen=True)
    if final:
        write_file(values, as_json(index) + "\n", evidence=evidence, chosen=True)

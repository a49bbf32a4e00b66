"""A dump on the host of an engine that is reached over the network: what is read of it is read there, in a container.

The same code as here reads it. It is streamed into a container that has the dump and no network, and what comes back is
a few kilobytes of JSON: from a process that has read an untrusted file, so every field is looked at before it is used.
"""

from __future__ import annotations

import contextlib
import io
import json
import select
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sandbox import errors, image, profiles
from sandbox.case.container import limits
from sandbox.engine import Bind, ContainerSpec, Engine, Exec, Tmpfs, labels
from sandbox.errors import BaseImageUnavailable, DumpDamaged, DumpError, DumpNotFound, EngineFailed, VmboxError
from sandbox.host import paths
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter

_SECONDS: Final = 60.0
"""Identifying ends itself after less than two; a host that is busy needs some to begin."""
_LONGEST: Final = 4 << 20
"""Bytes of an answer."""
_MEMORY: Final = 2 << 30

_PACKAGES: Final = ("__init__.py", "errors.py", "model.py", "progress.py", "version.py", "host", "formats", "dump")
"""Of the package, what identifying needs."""

_PROGRAM: Final = """\
import dataclasses, io, json, sys, zipfile
zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read(int(sys.argv[2])))).extractall("/tmp/vmbox")
sys.path.insert(0, "/tmp/vmbox")
from pathlib import Path
from sandbox.dump import identify
from sandbox.errors import VmboxError
try:
    found = identify(Path(sys.argv[1]))
    answer = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
    answer["vmcoreinfo"], answer["origins"] = dict(found.vmcoreinfo), dict(found.origins)
except VmboxError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps(answer, default=lambda value: value.isoformat() if hasattr(value, "isoformat") else str(value)))
"""


def identify(dump: Path, engine: Engine, reporter: Reporter = QUIET) -> Vmcore:
    """`sandbox.dump.identify` of a path of the engine's host. Raises what that does."""
    if not dump.is_absolute():
        raise DumpNotFound(
            f"{dump} is no path from the root",
            hint=f"the dump is a file of the engine's host: give all of /…/{dump.name}",
        )
    inside = f"/case/{dump.name}"
    spec = ContainerSpec(
        image=_with_python(engine, reporter),
        argv=["sleep", str(int(_SECONDS))],
        binds=[Bind(source=dump, target=inside)],
        tmpfs=[Tmpfs(target="/tmp", size=64 << 20)],  # noqa: S108 - in the container
        env={"LC_ALL": "C.UTF-8", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},  # noqa: S108 - in the container
        as_caller=False,
        memory=min(_MEMORY, limits(engine.info()).memory or _MEMORY),
        pids=16,
    )
    with reporter.step(f"Reading {dump} on {_host(engine)}"):
        try:
            container = engine.start(spec)
        except EngineFailed as error:
            if any(word in error.message for word in ("does not exist", "no such file", "not a directory")):
                raise DumpNotFound(f"there is no file {dump} on {_host(engine)}") from None
            raise
        try:
            code = program()
            argv = ["python3", "-I", "-c", _PROGRAM, inside, str(len(code))]
            with engine.exec(container.id, argv, stdin=True) as process:
                process.write(code)
                said = _answer(process, time.monotonic() + _SECONDS)
                if process.exit_code() != 0:
                    lines = process.errors.decode(errors="replace").strip().splitlines()
                    raise DumpDamaged(f"{dump} cannot be read on {_host(engine)}", detail="\n".join(lines[-5:]) or None)
        finally:
            engine.remove(container.id)
    return parse_answer(said, inside, dump)


def program() -> bytes:
    """What identifies a dump, as a zip: modules of this package, and the rules of release strings."""
    package = Path(__file__).parents[1]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _PACKAGES:
            place = package / name
            for file in [place] if place.is_file() else sorted(place.glob("*.py")):
                archive.write(file, f"sandbox/{file.relative_to(package)}")
        archive.write(paths.data_dir() / "images" / "releases.toml", "images/releases.toml")
    return buffer.getvalue()


def _answer(process: Exec, deadline: float) -> bytes:
    said = bytearray()
    while True:
        left = deadline - time.monotonic()
        if not process.pending() and (left <= 0 or not select.select([process.fileno()], [], [], left)[0]):
            raise DumpDamaged(f"reading the dump took more than {_SECONDS:g} s")
        piece = process.read()
        said += piece
        if not piece or len(said) > _LONGEST:
            return bytes(said)


def parse_answer(said: bytes, inside: str, dump: Path) -> Vmcore:
    """The answer of `_PROGRAM` as a value, with the paths of the host. Raises `DumpDamaged` for any other answer."""
    unlike = DumpDamaged(f"what was read of {dump} is not understood", hint="is vmbox of the same version there?")
    try:
        answer = json.loads(said)
    except ValueError:
        raise unlike from None
    if not isinstance(answer, dict):
        raise unlike
    place = str(dump)
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), None)
        if not (isinstance(kind, type) and issubclass(kind, VmboxError)):
            kind = DumpError
        message, hint = (str(answer.get(name, "")).replace(inside, place)[:500] for name in ("message", "hint"))
        raise kind(message, hint=hint)
    values: dict[str, Any] = {}
    for one in fields(Vmcore):
        value = answer.get(one.name)
        if value is None:
            if one.default is MISSING and one.default_factory is MISSING:
                raise unlike
            continue
        read = _READERS.get(str(one.type))
        if read is None:
            raise unlike
        with contextlib.suppress(ValueError):
            values[one.name] = read(value)
            continue
        raise unlike
    values["path"] = _to_host_path(values["path"], inside, dump)
    values["files"] = tuple(_to_host_path(file, inside, dump) for file in values.get("files", ()))
    return Vmcore(**values)


def _to_host_path(path: Path, inside: str, dump: Path) -> Path:
    """A path of the container as one of the host. What lies outside of the dump there is none of ours."""
    if path.is_relative_to(inside) and ".." not in path.parts:
        return dump / path.relative_to(inside)
    raise DumpDamaged(f"{dump} is said to have parts elsewhere: {path}")


def _exactly(kind: type) -> Callable[[object], object]:
    def read(value: object) -> object:
        # bool is an int to Python.
        if type(value) is not kind:
            raise ValueError(value)
        return value

    return read


def _of(read: Callable[[object], object]) -> Callable[[object], tuple[object, ...]]:
    def all_of(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise ValueError(value)  # noqa: TRY004 - readers complain in one way
        return tuple(read(one) for one in value)

    return all_of


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(value)  # noqa: TRY004 - readers complain in one way
    return float(value)


def _mapping(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise ValueError(value)
    return value


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "Path": lambda value: Path(str(value)),
    "str": _exactly(str),
    "str | None": _exactly(str),
    "int": _exactly(int),
    "int | None": _exactly(int),
    "bool": _exactly(bool),
    "bool | None": _exactly(bool),
    "float | None": _number,
    "datetime | None": lambda value: datetime.fromisoformat(str(value)),
    "tuple[str, ...]": _of(_exactly(str)),
    "tuple[str, ...] | None": _of(_exactly(str)),
    "tuple[Path, ...]": _of(lambda value: Path(str(value))),
    "Mapping[str, str]": _mapping,
}
"""By how a field of `Vmcore` is annotated."""


def _with_python(engine: Engine, reporter: Reporter) -> str:
    """An image whose Python is new enough: that of the newest distribution, or a self-contained one made of it."""
    newest = next((profile for profile in profiles.load().values() if profile.latest), None)
    if newest is None:
        raise BaseImageUnavailable("no profile is marked as the latest, whose image would read the dump")
    ref = image.reference(newest)
    if engine.image(ref) is None:
        found = engine.images({labels.IMAGE: labels.KERNEL_IMAGE, labels.PROFILE: newest.name})
        if found:
            return found[0].id
    return image.ensure(newest, engine, reporter)


def _host(engine: Engine) -> str:
    from urllib.parse import urlsplit

    endpoint = engine.info().endpoint
    return urlsplit(endpoint).hostname or endpoint

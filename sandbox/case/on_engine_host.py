"""A dump on the host of an engine that is reached over the network: what is read of it is read there, in a container.

The same code as here reads it. It is streamed into a container that has the dump and no network, and what comes back is
a few kilobytes of JSON: from a process that has read an untrusted file, so every field is looked at before it is used.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from sandbox import errors, image, profiles
from sandbox.case.container_spec import limits
from sandbox.dump.builder import is_release
from sandbox.dump.header import MACHINES
from sandbox.dump.panic import printable
from sandbox.dump.vmcoreinfo import is_build_id
from sandbox.engine import Bind, ContainerSpec, Engine, Exec, Tmpfs, labels
from sandbox.errors import BaseImageUnavailable, DumpDamaged, DumpError, DumpNotFound, PathNotFound
from sandbox.host import decode, paths
from sandbox.model import Vmcore
from sandbox.progress import QUIET, Reporter

_SECONDS: Final = 60.0
"""Identifying ends itself after less than two; a host that is busy needs some to begin."""
_LONGEST: Final = 4 << 20
"""Bytes of an answer."""
_LONGEST_TEXT: Final = 4096
"""Characters of a text in it; a line of a log has half of that."""
_MEMORY: Final = 2 << 30

_PACKAGES: Final = (
    "__init__.py",
    "errors.py",
    "log.py",
    "model.py",
    "progress.py",
    "version.py",
    "host",
    "formats",
    "dump",
)
"""The files and packages of `sandbox` that `identify` needs."""

_PROGRAM: Final = """\
import dataclasses, io, json, sys, zipfile
zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read(int(sys.argv[2])))).extractall("/tmp/vmbox")
sys.path.insert(0, "/tmp/vmbox")
from pathlib import Path
from sandbox.dump import identify_alone as identify
from sandbox.errors import VmboxError
from sandbox.model import key_of
try:
    found = identify(Path(sys.argv[1]))
    answer = {key_of(one): getattr(found, one.name) for one in dataclasses.fields(found)}
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
        except PathNotFound:
            raise DumpNotFound(f"there is no file {dump} on {_host(engine)}") from None
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
    """Returns the program that identifies a dump, as a zip: modules of this package and rules of release strings."""
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
        if not process.ready(max(deadline - time.monotonic(), 0)):
            raise DumpDamaged(f"reading the dump took more than {_SECONDS:g} s")
        piece = process.read()
        said += piece
        if not piece or len(said) > _LONGEST:
            return bytes(said)


def parse_answer(said: bytes, inside: str, dump: Path) -> Vmcore:
    """The answer of `_PROGRAM` as a value, with the paths of the host. Raises `DumpDamaged` for any other answer."""
    hint = "is vmbox of the same version there?"
    try:
        answer = decode.parse_json(said)
        if isinstance(answer, dict) and "error" in answer:
            raise _error(answer, inside, dump)
        found = decode.decode(Vmcore, answer, keys="any")
    except decode.DecodeError:
        raise DumpDamaged(f"what was read of {dump} is not understood", hint=hint) from None
    if not _is_plausible(found):
        raise DumpDamaged(f"what was read of {dump} cannot be true", hint=hint)
    files = tuple(_to_host_path(file, inside, dump) for file in found.files)
    return replace(found, path=_to_host_path(found.path, inside, dump), files=files)


def _is_plausible(found: Vmcore) -> bool:
    """Whether the texts are such as `sandbox.dump.identify` makes: they become file names, URLs and arguments."""
    values = (getattr(found, one.name) for one in fields(found))
    texts = [text for value in values for text in (value if isinstance(value, tuple) else (value,))]
    texts += [*found.origins, *found.origins.values()]
    return (
        all(text.isprintable() and len(text) <= _LONGEST_TEXT for text in texts if isinstance(text, str))
        and (found.release is None or is_release(found.release))
        and (found.build_id is None or is_build_id(found.build_id))
        and (found.arch is None or found.arch in MACHINES)
    )


def _error(answer: Mapping[str, object], inside: str, dump: Path) -> DumpError:
    kind = getattr(errors, str(answer["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, DumpError)):
        kind = DumpError
    texts = (str(answer.get(name, "")) for name in ("message", "hint"))
    message, hint = (printable(text[:500]).replace(inside, str(dump)) for text in texts)
    return kind(message, hint=hint)


def _to_host_path(path: Path, inside: str, dump: Path) -> Path:
    """Translates a path of the container to one of the host. Refuses a path outside of the dump."""
    if path.is_relative_to(inside) and ".." not in path.parts:
        return dump / path.relative_to(inside)
    raise DumpDamaged(f"{dump} is said to have parts elsewhere: {path}")


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

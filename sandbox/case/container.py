"""Cases: one dump, open in one disposable container.

A case's state is the container and a directory in the runtime directory (see `sandbox.case.store`), and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import platform
import pwd
import re
import secrets
import select
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sandbox.case import arrival, idle as idling, store
from sandbox.case.container_spec import container_name, container_spec, limits
from sandbox.case.places import RELAY, SESSION_VERSION
from sandbox.debugger import DEBUGGERS
from sandbox.debugger.protocol import VMCOREINFO
from sandbox.dump.vmcoreinfo import text_of, told_place
from sandbox.engine import Container, ContainerSpec, Engine, EngineInfo, connect, labels
from sandbox.errors import (
    AccessDenied,
    DumpNotFound,
    DumpUnreadable,
    EngineError,
    SessionFailed,
    pasteable,
)
from sandbox.host.paths import is_utf8
from sandbox.log import Log
from sandbox.model import Case, Debuginfo, Verification, Vmcore
from sandbox.profiles import Profile, doubts, only_misread, platforms
from sandbox.progress import QUIET, Reporter

_LOOK: Final = 0.1
"""Seconds without a word from a new case's script after which its engine is asked whether it runs."""

_LATER: Final = 10
"""How often an engine is asked again to remove a container that it may still be making."""

_NO_PROOF: Final = "no debuginfo: types, names and stacks are by the BTF, kallsyms and ORC in the dump itself"

_log = Log("case")


def open_case(
    vmcore: Vmcore,
    *,
    profile: Profile,
    image: str,
    debuginfo: Debuginfo | None,
    no_debuginfo: str = "",
    awaited: bool = False,
    engine: Engine,
    requested: str = "",
    idle: int,
    once: bool = False,
    view: Path | None = None,
    reporter: Reporter = QUIET,
) -> Case:
    """Starts the case container of a dump, or returns the case that another process has opened meanwhile.

    `view` is the directory of the view (`sandbox.case.views`) that `vmcore.files` is in, where it is. A case that is
    opened `once` belongs to its caller: it is not found by its dump.
    Without `debuginfo`, `no_debuginfo` says why there is none, and `awaited` whether it is on its way.
    """
    info = engine.info()
    there = info.endpoint if info.remote else None
    dump = vmcore.path if there else vmcore.path.resolve()
    if not there and not dump.exists():
        # An open file that was removed, by /proc/PID/fd/N: an engine mounts what has a name.
        hint = f"give it one: cp {pasteable(vmcore.path)} /var/tmp/vmcore"
        raise DumpNotFound(f"{vmcore.path} has no name any more: it was removed", hint=hint)
    ident = store.ident(vmcore.path, info) + (f"{store.ONCE}{secrets.token_hex(3)}" if once else "")
    directory = store.directory() / ident
    files = vmcore.files or (vmcore.path,)
    if not there and not info.rootless:
        for file in files:
            _refuse_unreadable(file)
    with store.lock(ident, reporter, f"opening {vmcore.path.name}"):
        present = store.read(directory)
        if present is not None and present.script == SESSION_VERSION and store.is_running(present):
            return present
        # The rest is of a container that is gone (a reboot, a restarted engine, a kill), or of another vmbox version.
        name = container_name(directory)
        engine.remove(name)
        store.remove(directory)
        store.make_directory(directory)
        token = secrets.token_hex(16)
        native = profile.platform is None and platforms.foreign_arch(vmcore.arch, info) is not None
        place = told_place(vmcore)
        if place is not None and not there:
            told = text_of(vmcore.vmcoreinfo)
            (directory / store.SHARED / VMCOREINFO.name).write_text(told, encoding="utf-8")
        spec = container_spec(
            name=name,
            image=image,
            files=files if there else [_named_in_utf8(file.resolve(), directory) for file in files],
            debuginfo=None if debuginfo is None or debuginfo.in_image else debuginfo.directory,
            runtime=None if there else directory / store.SHARED,
            platform=profile.platform,
            labels={
                labels.CASE: ident,
                labels.DUMP: str(dump),
                labels.RELEASE: vmcore.release or "",
                labels.USER: str(os.getuid()),
                labels.DIRECTORY: str(directory),
                labels.HOST: platform.node(),
            },
            env={"IDLE": str(idle)},
            limits=limits(info),
        )
        _log.info(
            "container %s of %s: memory %s, CPUs %s, processes %s, idle %d s",
            spec.name, image, spec.memory or "all", spec.cpus or "all", spec.pids or "all", idle,
        )  # fmt: skip
        # Before it is mounted: what takes its place meanwhile is then noticed.
        mounted = "" if debuginfo is None or debuginfo.in_image else store.mounted(debuginfo.directory)
        began = time.monotonic()
        with _undone_unless_open(engine, name, directory):
            with reporter.step("Starting the case container"):
                container = _start_container(engine, spec, dump, info)
                if there:
                    said = _await_ready_remote(engine, container.id, token)
                    if place is not None:
                        _send_vmcoreinfo(engine, container.id, text_of(vmcore.vmcoreinfo))
                else:
                    said = _await_ready(directory / store.SHARED, token, engine, container.id, spec)
                versions = _versions(said, image, info)
            _log.info("container %s is ready after %.3f s", container.id, time.monotonic() - began)
            case = Case(
                id=ident,
                dump=dump,
                release=vmcore.release or "",
                profile=profile.name,
                image=image,
                vmlinux=None if debuginfo is None else debuginfo.vmlinux,
                proof=_NO_PROOF if debuginfo is None else debuginfo.proof,
                origin="" if debuginfo is None else debuginfo.origin,
                mounted=mounted,
                verification_detail="" if debuginfo is None else debuginfo.verification_detail,
                verification=Verification.NONE if debuginfo is None else debuginfo.verification,
                build_id=vmcore.build_id,
                no_debuginfo=no_debuginfo,
                awaited=awaited,
                engine=info.name,
                endpoint=info.endpoint,
                container=container.id,
                opened=datetime.now(UTC),
                directory=directory,
                token=token,
                script=SESSION_VERSION,
                versions=versions,
                doubts=doubts(profile, versions, vmcore, native=info.arch if native else None, served=view is not None),
                only_misread=not native and only_misread(profile, versions, vmcore),
                native=native,
                files=len(vmcore.files) or 1,
                requested=requested,
                incomplete=None if vmcore.complete is not False else vmcore.incomplete_reason or "cut off",
                place=place,
                remote=there is not None,
            )
            if view is not None:
                (directory / store.VIEW).write_text(str(view))
            idling.record(case, idle)
            store.write(case)
            idling.keep(case, container.process)
            return case


@contextlib.contextmanager
def _undone_unless_open(engine: Engine, name: str, directory: Path) -> Iterator[None]:
    """Removes the container and the directory of a case that does not come up.

    An engine goes on with a request whose client was interrupted: it is asked again.
    """
    try:
        yield
    except BaseException as error:
        engine.remove(name)
        for _ in range(0 if isinstance(error, Exception) else _LATER):
            time.sleep(_LOOK)
            engine.remove(name)
        store.remove(directory)
        raise


def close(case: Case, *, awaits: bool = False) -> None:
    """Ends a case: the container goes, and with it everything that was in it.

    Debuginfo that is on its way for it is stopped as well, unless another case of the dump `awaits` it.
    """
    with store.lock(case.id):
        if not case.remote and store.is_running(case):
            _request_stop(case)
        _remove_container(case)
        store.remove(case.directory)
    if case.awaited and not awaits:
        arrival.end(case.id)


def _request_stop(case: Case) -> None:
    # The container ends by itself within milliseconds and its engine removes it. One that does not want to, or that
    # keeps the FIFO full, is removed by the engine.
    with contextlib.suppress(OSError):
        descriptor = os.open(case.shared / "ctl", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b"stop\n")
        finally:
            os.close(descriptor)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and store.is_running(case):
            time.sleep(0.01)


def _remove_container(case: Case) -> None:
    try:
        engine = connect(case.endpoint)
    except EngineError:
        if case.remote:
            raise
        # An engine that is gone has no containers either; one that is down removes it when it comes up.
        return
    try:
        engine.remove(case.container)
    finally:
        engine.close()


def _refuse_unreadable(file: Path) -> None:
    """Root reads everything by a capability that a case does not have: there it is a user like any other."""
    state = file.stat()
    bits = stat.S_IROTH
    bits |= stat.S_IRUSR if state.st_uid == 0 else 0
    bits |= stat.S_IRGRP if state.st_gid in {os.getegid(), *os.getgroups()} else 0
    if os.geteuid() != 0 or state.st_mode & bits or "system.posix_acl_access" in os.listxattr(file):
        return
    owner = f"#{state.st_uid}"
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(state.st_uid).pw_name
    raise DumpUnreadable(
        f"{file} belongs to {owner}, and a case has none of root's privileges to read it with",
        hint=f"setfacl -m u:root:r {pasteable(file)}   or, by that user's engine: sudo -u {pasteable(owner)} vmbox …",
    )


def _named_in_utf8(file: Path, directory: Path) -> Path:
    """The file itself, or a link to it in the case's directory: the engines' JSON has no other names than UTF-8."""
    if is_utf8(file):
        return file
    link = directory / f"dump-{secrets.token_hex(4)}"
    link.symlink_to(file)
    return link


def _start_container(engine: Engine, spec: ContainerSpec, dump: Path, info: EngineInfo) -> Container:
    """Turn "permission denied" from a rootful engine into an error that names the user who cannot read the dump.

    Only where it is about the dump: the same words are about mounts, limits and security modules, too.
    """
    try:
        return engine.start(spec)
    except AccessDenied as error:
        if info.rootless or not _is_about(dump, f"{error.message}\n{error.detail or ''}") or _root_reads(dump):
            raise
        raise DumpUnreadable(
            f"{info.name} runs as root, whom the file system of {dump} refuses (NFS with root_squash, FUSE)",
            hint="take an engine of your own: --engine podman, without sudo",
            detail=error.message,
        ) from error


def _is_about(dump: Path, said: str) -> bool:
    """Whether an engine's message names the dump, or a directory above it."""
    named = (Path(found) for found in re.findall(r"/[^\s:`'\"]+", said))
    return str(dump) in said or any(path in dump.parents for path in named)


def _root_reads(dump: Path) -> bool:
    """Whether this process is root and can open the dump, so that nothing refuses it to root."""
    if os.geteuid() != 0:
        return False
    try:
        dump.open("rb").close()
    except OSError:
        return False
    return True


def _last_words(engine: Engine, container: str, spec: ContainerSpec) -> str:
    """What the case's script printed before it ended.

    The engine removes the log together with the container. Where it is gone, the script is run again, and attached to.
    """
    with contextlib.suppress(EngineError):
        if said := engine.logs(container).strip():
            return said.decode(errors="replace")
    again = replace(spec, name=None, labels={}, env={**spec.env, "IDLE": "5"}, auto_remove=False)
    try:
        for _ in engine.run(again):
            pass
    except EngineError as error:
        return error.detail or error.message
    return ""


def _await_ready_remote(engine: Engine, container: str, token: str) -> str:
    try:
        with engine.exec(container, [RELAY, "ready"], stdin=True) as waiting:
            waiting.write(f"{token}\n".encode())
            answer = waiting.read()
            if waiting.exit_code() == 0:
                return answer.decode(errors="replace")
            said = waiting.errors
    except EngineError as error:
        said = error.message.encode()
    except OSError as error:
        said = (error.strerror or str(error)).encode()
    raise SessionFailed(
        "the case container ended before it was ready",
        hint="vmbox doctor --engine checks the engine",
        detail=said.decode(errors="replace") or None,
    )


def _send_vmcoreinfo(engine: Engine, container: str, text: str) -> None:
    """Writes the text into a case on another host, which has nothing of this one."""
    with engine.exec(container, ["sh", "-c", f"cat >{VMCOREINFO}"], stdin=True) as writing:
        writing.write(text.encode())
        writing.close_stdin()
        writing.read()
        if writing.exit_code() != 0:
            raise SessionFailed(
                "the case cannot be told where the kernel is", detail=writing.errors.decode(errors="replace") or None
            )


def _versions(said: str, image: str, engine: EngineInfo) -> dict[str, str]:
    """The debuggers of the image and their versions, out of what the session script says when it is ready."""
    script, *words = said.split() or [""]
    if script != str(SESSION_VERSION):
        raise SessionFailed(
            f"the image {image} is of another version of vmbox",
            hint=f"remove it, and it is made again: {engine.name} image rm {image}",
        )
    return {name: version for name, _, version in (word.partition("=") for word in words) if name in DEBUGGERS}


def _await_ready(directory: Path, token: str, engine: Engine, container: str, spec: ContainerSpec) -> str:
    """Gives the session script its token and waits until it holds the FIFOs, so that who finds the case can use it.

    Returns what it says of the image.
    """
    # For reading too: then it waits for no reader, and what is written stays until the script reads it.
    control = os.open(directory / "ctl", os.O_RDWR | os.O_NONBLOCK)
    descriptor = os.open(directory / "out", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.write(control, f"{token}\n".encode())
        seen = b""
        deadline = time.monotonic() + 30
        ready = re.compile(re.escape(token).encode() + rb" ready ?(.*)\n")
        while (found := ready.search(seen)) is None:
            select.select([descriptor], [], [], _LOOK)
            piece = b""
            with contextlib.suppress(BlockingIOError):
                piece = os.read(descriptor, 65536)
            seen += piece
            ended = not piece and ((state := engine.container(container)) is None or not state.running)
            if ended or time.monotonic() > deadline:
                raise SessionFailed(
                    "the case container ended before it was ready",
                    hint="vmbox doctor checks the engine",
                    detail=_last_words(engine, container, spec) or None,
                )
        return found[1].decode(errors="replace")
    finally:
        os.close(descriptor)
        os.close(control)

"""From a path to an open case: identify, select, ensure and locate side by side, open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.case import store
from sandbox.case.options import OpenOptions, debuginfo_is_gone
from sandbox.case.provision import Provisioned
from sandbox.case.what_to_open import identified, refuse_without_kernel, selected
from sandbox.case.without_debuginfo import WithoutDebuginfo, provision_or_without
from sandbox.errors import (
    AccessDenied,
    DumpUnreadable,
    EngineFailed,
    PathNotFound,
)
from sandbox.host import config, paths
from sandbox.host.background import in_background
from sandbox.log import Log
from sandbox.model import REMOTE_SCHEMES, Case
from sandbox.progress import QUIET, Reporter
from sandbox.remote.places import DESCRIBED

if TYPE_CHECKING:
    # A warm run finds its case and needs none of these.
    from concurrent.futures import Future

    from sandbox.case.views import Server
    from sandbox.engine import Engine
    from sandbox.model import Vmcore

_log = Log("case")


def find_or_open_case(dump: Path, options: OpenOptions, reporter: Reporter = QUIET) -> Case:
    """The case of a dump as the user wants it: the open one if it is like that, else a new one."""
    dump = here(dump, reporter)
    if options.once:
        return open_dump(dump, options, reporter)
    try:
        found = store.find(dump, engine=options.engine)
    except OSError:
        # No such file, no permission: identifying it says so properly.
        found = None
    if found is None:
        _log.debug("no case of %s is open", dump)
    else:
        _log.info("case %s is open since %s: image %s, %s", found.id, found.opened, found.image, found.proof)
    if found is not None and options.accepts(found):
        return found
    if found is not None and debuginfo_is_gone(found):
        reporter.notice(f"{found.vmlinux}, which the open case has used, was removed or replaced")
    return open_dump(dump, options, reporter, replaces=found)


def here(dump: Path, reporter: Reporter) -> Path:
    """The dump, or the path of this host that stands for one that is given as a URL."""
    if dump.parent.suffix != DESCRIBED:
        return dump
    from sandbox.remote import described

    return described.local(dump, reporter)


def _why_again(case: Case, options: OpenOptions) -> str:
    """Why an open case does not do."""
    if options.case_key() not in {"", case.requested}:
        wanted = options.wishes()
        if case.requested.startswith(f"{wanted} version="):
            return f"{options.debuginfo} was changed since the case was opened: opening the dump with it"
        return f"closing the open case, which is not {wanted}"
    if debuginfo_is_gone(case):
        return "looking for debuginfo again"
    if options.needs_debuginfo():
        return f"{options.debugger} opens no dump without debuginfo: looking for it again"
    return "debuginfo has arrived: opening the dump with it"


def open_dump(
    dump: Path, options: OpenOptions | None = None, reporter: Reporter = QUIET, *, replaces: Case | None = None
) -> Case:
    """Opens a case of a dump, with what has to be fetched and built for it.

    `replaces` is the dump's open case, which is not as `options` say. It is closed when everything else is at hand, so
    that a mistake in the options does not cost it.
    """
    from sandbox.case.kept_dumps import prune
    from sandbox.case.overdue import close_overdue
    from sandbox.dump import is_plain, kdump_lost
    from sandbox.engine.orphans import orphans
    from sandbox.remote import described

    options = options or OpenOptions()
    if options.debuginfo is not None and not options.debuginfo.is_dir():
        from sandbox.debuginfo.local import kind

        # A wrong name is said before an image is made, which takes minutes.
        kind(options.debuginfo)
    if (options.engine or config.current().engine or "").startswith(REMOTE_SCHEMES):
        return _open_elsewhere(dump, options, reporter, replaces)
    with _connecting(options.engine) as connecting:
        vmcore = identified(dump, reporter)
        selection = selected(vmcore, dump, options, reporter)
        engine = connecting.result()
        _refuse_remote(engine, dump)
        close_overdue()
        prune()
        for left in orphans(engine):  # of a vmbox that was killed
            engine.remove(left.id)
        plain = is_plain(vmcore) and not kdump_lost.reads_as_zeros(vmcore)
        if plain and not described.is_description(vmcore.path) and options.record is None:
            ready = provision_or_without(vmcore, selection, options, engine, reporter)
            _replace(replaces, ready, options, reporter)
            return _case(vmcore, ready, options, engine, reporter)
        with _serving(vmcore, engine, reporter, record=options.record) as server:
            seen = None if server is None else replace(vmcore, files=server.files)
            if seen is None:
                vmcore = _copied(vmcore, options, reporter)
            ready = provision_or_without(seen or vmcore, selection, options, engine, reporter)
            _replace(replaces, ready, options, reporter)
            if server is not None and seen is not None:
                case = _served_case(seen, ready, options, engine, reporter, server=server)
                if case is not None:
                    return case
                vmcore = _copied(vmcore, options, reporter)
            return _copied_case(vmcore, ready, options, engine, reporter, dump=dump)


def _replace(
    case: Case | None, ready: Provisioned | WithoutDebuginfo, options: OpenOptions, reporter: Reporter
) -> None:
    if case is not None:
        from sandbox.case.container import close

        reporter.notice(_why_again(case, options))
        close(case, awaits=isinstance(ready, WithoutDebuginfo) and ready.awaited)


def _copied(vmcore: Vmcore, options: OpenOptions, reporter: Reporter) -> Vmcore:
    """The dump as a plain file of this host, or the files of a split set, which are plain."""
    from sandbox.dump import is_plain, unpack
    from sandbox.remote import described

    if options.record is not None:
        raise DumpUnreadable(
            f"which pages of {vmcore.path.name} are read cannot be seen: it is not served to the case",
            hint="unpack it, if it is an archive; vmbox doctor checks what a view needs",
        )
    if described.is_description(vmcore.path):
        name = described.name(vmcore.path)
        raise DumpUnreadable(f"{name} cannot be served to a case here", hint="download it, and open the file")
    if is_plain(vmcore):
        return vmcore
    return replace(vmcore, files=(unpack(vmcore, paths.unpacked_dir(), reporter),))


@contextmanager
def _connecting(name_or_url: str | None) -> Iterator[Future[Engine]]:
    """Yields the engine to be: it needs some tenths of a second to start and to describe itself."""
    from sandbox.engine import connect

    def connected() -> Engine:
        engine = connect(name_or_url)
        with ExitStack() as on_failure:
            on_failure.callback(engine.close)
            engine.info()
            on_failure.pop_all()
        return engine

    connecting = in_background(connected, name="engine")
    try:
        yield connecting
    finally:
        connecting.add_done_callback(_close_engine)


def _close_engine(connecting: Future[Engine]) -> None:
    if connecting.exception() is None:
        connecting.result().close()


@contextmanager
def _serving(
    vmcore: Vmcore, engine: Engine, reporter: Reporter, *, record: Path | None = None
) -> Iterator[Server | None]:
    """Yields the server of a dump that is not plain; None where a copy has to be made, or is there."""
    from sandbox.case import views
    from sandbox.dump import is_plain
    from sandbox.dump.unpacking import unpacked_path
    from sandbox.remote import described

    server = None
    if record or vmcore.path.is_dir() or not unpacked_path(vmcore.path, paths.unpacked_dir()).is_file():
        try:
            server = views.serve(vmcore, engine.info(), reporter, record=record)
        except views.NotServed as reason:
            copied = not is_plain(vmcore) and not described.is_description(vmcore.path)
            doing = "is copied, because its bytes cannot be" if copied else "cannot be"
            reporter.notice(f"{vmcore.path.name} {doing} served: {reason}; {reason.hint}")
    try:
        yield server
    finally:
        if server is not None:
            server.close()


def _served_case(
    vmcore: Vmcore,
    ready: Provisioned | WithoutDebuginfo,
    options: OpenOptions,
    engine: Engine,
    reporter: Reporter,
    *,
    server: Server,
) -> Case | None:
    """The case that reads its dump from `server`; None where the engine does not see what is served."""
    try:
        case = _case(vmcore, ready, options, engine, reporter, view=server.place)
    except (AccessDenied, PathNotFound, DumpUnreadable) as error:
        reporter.notice(f"{vmcore.path.name} is copied, because the engine does not see it served: {error.message}")
        server.close()
        return None
    if store.view_of(case.directory) == server.place:
        server.attach(case.shared / "ctl")
    return case


def _copied_case(
    vmcore: Vmcore,
    ready: Provisioned | WithoutDebuginfo,
    options: OpenOptions,
    engine: Engine,
    reporter: Reporter,
    *,
    dump: Path,
) -> Case:
    """The case of a `dump` that was unpacked. A copy that is cut off is served, so that its lost pages are marked."""
    from sandbox.dump import is_plain, kdump_lost

    if is_plain(vmcore) or not kdump_lost.reads_as_zeros(vmcore):
        return _case(vmcore, ready, options, engine, reporter)
    plain = replace(vmcore, path=vmcore.files[0], wrappers=(), flattened=False)
    if not options.force:
        refuse_without_kernel(plain, dump)
    with _serving(plain, engine, reporter) as server:
        if server is not None:
            seen = replace(vmcore, files=server.files)
            case = _served_case(seen, ready, options, engine, reporter, server=server)
            if case is not None:
                return case
    return _case(vmcore, ready, options, engine, reporter)


def _open_elsewhere(dump: Path, options: OpenOptions, reporter: Reporter, replaces: Case | None) -> Case:
    """The dump is a path of the engine's host. What is sent there is an image, once, and nothing comes from there but
    what the dump says about itself.
    """
    from sandbox.case import on_engine_host, self_contained
    from sandbox.dump import is_plain
    from sandbox.engine import connect
    from sandbox.engine.orphans import orphans

    engine = connect(options.engine)
    try:
        for left in orphans(engine):  # of a vmbox of this host that was killed
            engine.remove(left.id)
        vmcore = on_engine_host.identify(dump, engine, reporter)
        selection = selected(vmcore, dump, options, reporter)
        if not is_plain(vmcore):
            raise DumpUnreadable(
                f"{dump} has to be unpacked first: {', '.join(vmcore.wrappers) or 'flattened'}",
                hint="unpack it there; or run vmbox there, which does that by itself",
            )
        ready = provision_or_without(vmcore, selection, options, engine, reporter)
        if isinstance(ready, Provisioned) and not ready.debuginfo.in_image:
            base, debuginfo = ready.image, ready.debuginfo
            ref = self_contained.build(vmcore, debuginfo, engine, reporter, profile=ready.profile, base=base)
            inside = replace(
                debuginfo,
                directory=self_contained.DIRECTORY,
                vmlinux=self_contained.DIRECTORY / "vmlinux",
                in_image=True,
            )
            ready = replace(ready, image=ref, debuginfo=inside)
        _replace(replaces, ready, options, reporter)
        return _case(vmcore, ready, options, engine, reporter)
    finally:
        engine.close()


def _case(
    vmcore: Vmcore,
    ready: Provisioned | WithoutDebuginfo,
    options: OpenOptions,
    engine: Engine,
    reporter: Reporter,
    *,
    view: Path | None = None,
) -> Case:
    from sandbox.case import container as cases

    return cases.open_case(
        vmcore,
        profile=ready.profile,
        image=ready.image,
        debuginfo=None if isinstance(ready, WithoutDebuginfo) else ready.debuginfo,
        no_debuginfo=ready.reason if isinstance(ready, WithoutDebuginfo) else "",
        awaited=isinstance(ready, WithoutDebuginfo) and ready.awaited,
        engine=engine,
        requested=options.case_key(),
        idle=config.current().idle if options.idle is None else options.idle,
        once=options.once,
        view=view,
        reporter=reporter,
    )


def _refuse_remote(engine: Engine, dump: Path) -> None:
    """Refuses an engine on another host that was found and not named: the dump is on this host."""
    import urllib.parse

    endpoint = engine.info().endpoint
    host = urllib.parse.urlsplit(endpoint).hostname
    if host is not None and not engine.info().local:
        raise EngineFailed(
            f"the engine {endpoint} is on another host, which does not see {dump}",
            hint=f"for a dump of that host: vmbox run --engine {endpoint} /PATH/THERE -- bt; else --engine podman",
        )

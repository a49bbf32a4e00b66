"""Commands about the debuginfo in the cache: debuginfo fetch, list, add, prune."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import render
from sandbox.case import store
from sandbox.cli.app import app, command
from sandbox.cli.options import EngineName, GivenDebuginfo, Json, OptionalDump, Quiet, Release, UtsnameVersion
from sandbox.host import config, paths
from sandbox.model import Verification

if TYPE_CHECKING:
    # Every command loads this module, and few need these imports.
    from sandbox.debuginfo.inventory import CachedBuild

group = typer.Typer(no_args_is_help=True, help="Fetch debuginfo ahead of time, list what is kept, free space.")
app.add_typer(group, name="debuginfo")


@command(group=group)
def fetch(
    vmcore: OptionalDump = None,
    release: Release = None,
    utsname_version: UtsnameVersion = None,
    module: Annotated[
        list[str] | None, typer.Option("--module", metavar="NAME", help="Also this module's debug file; repeatable.")
    ] = None,
    modules: Annotated[
        bool, typer.Option("--modules", help="Also the debug files of all modules that were loaded.")
    ] = False,
    engine: EngineName = None,
    debuginfo: GivenDebuginfo = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Get the debuginfo of a dump's kernel, or of a release, and say where it is.

    vmbox debuginfo fetch vmcore --modules
    vmbox debuginfo fetch --release 5.14.0-427.13.1.el9_4.x86_64
    """
    from sandbox.case.dumps import identify
    from sandbox.case.options import OpenOptions
    from sandbox.case.provision import find_debuginfo, with_machine
    from sandbox.debuginfo.modules import fetch_modules
    from sandbox.dump.release import of_release
    from sandbox.session.module_debuginfo import loaded_modules
    from sandbox.session.start import open_session

    match vmcore, release:
        case Path(), None:
            wanted = identify(vmcore)
        case None, str():
            wanted = of_release(release, utsname_version)
        case _:
            raise typer.BadParameter("give a dump, or --release")
    if modules and vmcore is None:
        raise typer.BadParameter("--modules asks the dump which modules there were; without one, give --module NAME")
    reporter = render.reporter(quiet=quiet)
    options = OpenOptions(engine=engine, debuginfo=debuginfo, force=wanted.build_id is None and wanted.banner is None)
    found = find_debuginfo(with_machine(wanted, reporter), options, reporter)
    names = set(module or ())
    if modules and vmcore is not None:
        with open_session(vmcore, OpenOptions(engine=engine, debuginfo=debuginfo), reporter)[0] as session:
            names |= loaded_modules(session)
    got = fetch_modules(found.vmlinux, names, reporter) if names else None
    if json:
        render.as_json({"debuginfo": found, "modules": got})
        return
    facts = [("DEBUGINFO", str(found.vmlinux)), ("ORIGIN", found.origin), ("PROOF", found.proof)]
    facts.append(("VERIFIED", found.verification_detail))
    if got is not None:
        facts += [("MODULES", " ".join(got.fetched)), ("NOT THERE", " ".join(got.missing))]
    render.facts(facts)


@command("list", group=group)
def list_kept(json: Json = False) -> None:
    """List the kept debuginfo, the most recently used first."""
    from sandbox.debuginfo.inventory import cached_builds

    found = cached_builds(paths.cache_dir())
    if json:
        render.as_json(found)
    elif found:
        columns = ("BUILD", "RELEASE", "SIZE", "MODULES", "USED", "CHECKED", "FOR", "ORIGIN")
        render.table(columns, (_row(one) for one in found))
        limit = config.current().debuginfo_limit
        render.note(f"{render.size(sum(one.size for one in found))} of at most {render.size(limit)}")
    else:
        render.note("no debuginfo is kept")


@command(group=group)
def add(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE|DIR", help="A vmlinux, a debug package, or a directory of them.")
    ],
    engine: EngineName = None,
    quiet: Quiet = False,
) -> None:
    """Keep debuginfo that you have: for a host without a network, or a kernel of your own.

    You vouch for it: it is used for every dump of its build from then on, also where verify is "strict", though nothing
    of it is checked. To use a file for one dump alone, give it to that dump: vmbox run --debuginfo FILE VMCORE.
    """
    from sandbox.case.options import OpenOptions
    from sandbox.case.provision import debuginfo_helpers
    from sandbox.debuginfo import add as put

    reporter = render.reporter(quiet=quiet)
    with debuginfo_helpers(OpenOptions(engine=engine), reporter) as (_, gdb_index_builder):
        for file in files:
            for entry in put(
                file, gdb_index_builder=gdb_index_builder, reporter=reporter, in_use=store.debuginfo_in_use
            ):
                facts = [("DEBUGINFO", str(entry.vmlinux)), ("BUILD-ID", entry.about.build_id or "none")]
                facts += [("USED FOR", "every dump of this build"), ("VERIFIED", entry.about.verified)]
                render.facts(facts)


@command(group=group)
def prune(
    builds: Annotated[
        list[str] | None, typer.Argument(metavar="BUILD", help="Beginnings of build-ids.", show_default=False)
    ] = None,
    limit: Annotated[
        str | None, typer.Option("--limit", metavar="SIZE", help="How much may stay, e.g. 5GB; 0 removes everything.")
    ] = None,
    json: Json = False,
) -> None:
    """Remove the least recently used debuginfo, down to --limit or the setting debuginfo_limit; or certain builds.

    What open cases use stays.
    """
    if builds and limit is not None:
        raise typer.BadParameter("give builds, or --limit")
    try:
        most = config.current().debuginfo_limit if limit is None else config.amount(limit)
    except ValueError as error:
        raise typer.BadParameter(f"--limit must be {error}") from None
    from sandbox.debuginfo.inventory import cached_builds, remove

    gone = remove(paths.cache_dir(), builds or (), limit=most, in_use=store.debuginfo_in_use())
    if json:
        render.as_json(gone)
        return
    for one in gone:
        render.note(f"removed {one.build} ({one.release}), {render.size(one.size)}")
    if not gone:
        left = sum(one.size for one in cached_builds(paths.cache_dir()))
        render.note(f"nothing to remove; {render.size(left)} stay" if left else "nothing to remove")


def _row(one: CachedBuild) -> tuple[str, ...]:
    from sandbox.debuginfo import trust

    used = f"{datetime.fromtimestamp(one.used, UTC).astimezone():%Y-%m-%d %H:%M}"
    checked = one.check or "not known"
    whom = one.dump or ("every dump" if trust.shared(Verification(one.check)) else "no dump: not checked")
    return (one.build[:16], one.release, render.size(one.size), str(one.modules), used, checked, whom, one.origin)

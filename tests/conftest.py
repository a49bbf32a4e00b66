"""Fixtures of all tests: real engines, shared by the whole run.

`docker_engine`, `podman_rootful` and `podman_rootless` are one `EngineUnderTest` each; `engine` runs a test on all
three. A test that uses one of them gets the mark `engine`. With CI=true a missing engine, and any other reason to skip
such a test, is a failure.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import engines
import leftovers
import time_spent
from engines import EngineUnderTest

CI = os.environ.get("CI") == "true"

# A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that: tests of Ctrl-C would
# test nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
_PODMAN = {"podman_rootful", "podman_rootless"}
_FIXTURES = {"docker_engine", "engine"} | _PODMAN


# What is imported and collected stays until the end: to look through it for garbage again and again takes time.
gc.disable()


# Its tests are those of the modules that import it.
pytest.register_assert_rewrite("contract")

_BEFORE = pytest.StashKey[frozenset[str]]()
_LEFT = pytest.StashKey[list[str]]()
_GROUP = pytest.StashKey[str]()


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_BEFORE] = leftovers.look()


# After xdist's own, which ends the processes that ran the tests.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return
    left = session.config.stash[_LEFT] = leftovers.since(session.config.stash[_BEFORE])
    # Elsewhere another run may be under way, whose engines have mounts.
    if left and CI and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Hides no second try, and nothing that is left on the host. Of a long run, says where its time went."""
    if spent := [*time_spent.lines(terminalreporter.stats)]:
        terminalreporter.section("where the time went")
        for line in spent:
            terminalreporter.write_line(line)
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"tried again: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
    if left := config.stash.get(_LEFT, None):
        terminalreporter.section("left behind", red=True)
        for line in left:
            terminalreporter.write_line(line)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


# First: xdist's own hook looks for the groups. And last: pytest's own sorts by the engines that tests want.
@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        callspec = getattr(item, "callspec", None)
        wanted = {*getattr(item, "fixturenames", ()), callspec.params.get("engine") if callspec else None} & _FIXTURES
        # A unit test's fixture of such a name is no engine.
        if wanted and not item.nodeid.startswith("tests/unit/"):
            item.add_marker(pytest.mark.engine)
            item.stash[_GROUP] = _group(wanted)
        else:
            # By file: xdist takes a millisecond to hand out a group, more with each that it has handed out.
            item.stash[_GROUP] = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(item.stash[_GROUP]))
    yield
    items.sort(key=lambda item: _when(item, item.stash[_GROUP]))


_ENGINES = ("docker", "podman", "rootless")


def _group(wanted: set[str]) -> str:
    """Of the processes that share the tests (`make test`), the one that runs a test of these engines.

    Each has engines of its own. What wants Docker and Podman goes to Docker's: Podman takes from Docker there, and it
    is Docker that would have to build.
    """
    if "docker_engine" in wanted:
        return "docker"
    return "rootless" if "podman_rootless" in wanted and "podman_rootful" not in wanted else "podman"


def _when(item: pytest.Item, group: str) -> tuple[int, bool]:
    """Where an item comes: xdist hands out groups in the order of their first ones, those of the engines first.

    Docker's process begins with tests that need dumps, the others with those that need none, so that none waits.
    """
    if group not in _ENGINES:
        return len(_ENGINES), False
    return _ENGINES.index(group), (group == "docker") != item.nodeid.startswith("tests/e2e/")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        report.sections.extend((f"log of {one.name}", one.log()) for one in engines.RUNNING)
    needs_engine = item.get_closest_marker("engine") or item.get_closest_marker("e2e")
    if CI and report.skipped and needs_engine and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow a test that needs an engine: {report.longrepr}"
    return report


@contextmanager
def _started(name: str) -> Iterator[EngineUnderTest]:
    engine = engines.ENGINES[name]()
    try:
        under_test = next(engine)
    except Exception as error:  # noqa: BLE001 - for any reason, the engine is missing
        (pytest.fail if CI else pytest.skip)(f"{name}: {error}")
    engines.RUNNING.append(under_test)
    try:
        yield under_test
    finally:
        engines.RUNNING.remove(under_test)
        engine.close()


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[EngineUnderTest]:
    with _started("docker") as under_test:
        yield under_test


@pytest.fixture(scope="session")
def podman_rootful() -> Iterator[EngineUnderTest]:
    with _started("podman-rootful") as under_test:
        yield under_test


@pytest.fixture(scope="session")
def podman_rootless() -> Iterator[EngineUnderTest]:
    with _started("podman-rootless") as under_test:
        yield under_test


@pytest.fixture(scope="session", params=["docker_engine", "podman_rootful", "podman_rootless"])
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Each of the three engines."""
    return request.getfixturevalue(request.param)

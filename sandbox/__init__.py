"""vmbox: open any Linux kernel crash dump with the right crash, matching debuginfo, sandboxed.

    import sandbox

    print(sandbox.identify("vmcore").panic)
    with sandbox.open("vmcore") as case:
        print(case.run("bt"))

Importing this loads nothing else: each name is imported when it is used first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandbox.api import Answer, OpenCase, Outcome, cases, dmesg, identify, open, prepare  # noqa: A004 - as sandbox.open
    from sandbox.errors import VmboxError
    from sandbox.judge.verdict import Verdict
    from sandbox.model import Case, Debuginfo, Transcript, Vmcore
    from sandbox.report.model import Report
    from sandbox.version import __version__

__all__ = [
    "Answer",
    "Case",
    "Debuginfo",
    "OpenCase",
    "Outcome",
    "Report",
    "Transcript",
    "Verdict",
    "VmboxError",
    "Vmcore",
    "__version__",
    "cases",
    "dmesg",
    "identify",
    "open",
    "prepare",
]


def __getattr__(name: str) -> Any:
    """The public names, from where they are defined."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"VmboxError": "errors", "Report": "report.model", "Verdict": "judge.verdict", "__version__": "version"}
    home |= dict.fromkeys(("Case", "Debuginfo", "Transcript", "Vmcore"), "model")
    value = getattr(import_module(f"{__name__}.{home.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

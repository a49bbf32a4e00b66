"""The command line: parse, call, render, exit status. A module for each group of commands."""

from sandbox.cli import assistants, cases, debuginfo, dump, evidence, host, images, kube, settings, transcripts, triage
from sandbox.cli.application import app

__all__ = [
    "app",
    "assistants",
    "cases",
    "debuginfo",
    "dump",
    "evidence",
    "host",
    "images",
    "kube",
    "settings",
    "transcripts",
    "triage",
]

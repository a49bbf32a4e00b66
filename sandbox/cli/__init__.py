"""The command line: parse, call, render, exit status. Each group of commands has a module."""

from sandbox.cli import (
    config,
    debuginfo,
    decode,
    doctor,
    excerpt,
    explain,
    images,
    info,
    kube,
    log,
    mcp,
    run,
    triage,
    verify,
)
from sandbox.cli.app import app

__all__ = [
    "app",
    "config",
    "debuginfo",
    "decode",
    "doctor",
    "excerpt",
    "explain",
    "images",
    "info",
    "kube",
    "log",
    "mcp",
    "run",
    "triage",
    "verify",
]

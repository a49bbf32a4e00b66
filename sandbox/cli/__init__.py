"""The command line: parse, call, render, exit status. A module for each group of commands."""

from sandbox.cli import cases, debuginfo, dump, host, images, settings, transcripts
from sandbox.cli.application import app

__all__ = ["app", "cases", "debuginfo", "dump", "host", "images", "settings", "transcripts"]

"""Exactly matching debuginfo: found, verified, proven, kept."""

from sandbox.debuginfo.locate import add, locate
from sandbox.debuginfo.prepare import Preparer
from sandbox.debuginfo.sources import PackageOracle, RemotePackage

__all__ = ["PackageOracle", "Preparer", "RemotePackage", "add", "locate"]

"""Exactly matching debuginfo: found, verified, proven, kept."""

from sandbox.debuginfo.locate import locate
from sandbox.debuginfo.prepare import Preparer
from sandbox.debuginfo.sources import PackageOracle, RemotePackage
from sandbox.debuginfo.supplied import add

__all__ = ["PackageOracle", "Preparer", "RemotePackage", "add", "locate"]

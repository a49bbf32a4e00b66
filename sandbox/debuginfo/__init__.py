"""Exactly matching debuginfo: found, verified, proven, kept."""

from sandbox.debuginfo.gdb_index import Preparer
from sandbox.debuginfo.locate import locate
from sandbox.debuginfo.package_names import PackageOracle, RemotePackage
from sandbox.debuginfo.user_provided import add

__all__ = ["PackageOracle", "Preparer", "RemotePackage", "add", "locate"]

"""Exactly matching debuginfo: found, verified, proven, kept."""

from sandbox.debuginfo.gdb_index import GdbIndexBuilder
from sandbox.debuginfo.locate import locate
from sandbox.debuginfo.package_names import NoPackageManager, PackageQuery, RemotePackage
from sandbox.debuginfo.user_provided import add

__all__ = ["GdbIndexBuilder", "NoPackageManager", "PackageQuery", "RemotePackage", "add", "locate"]

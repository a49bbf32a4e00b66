"""vmbox: open any Linux kernel crash dump with the right crash, matching debuginfo, sandboxed."""

__version__ = "0.1.0.dev0"

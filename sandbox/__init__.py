"""vmbox: open any Linux kernel crash dump with the right crash, matching debuginfo, and a sandbox around both."""

__version__ = "0.1.0.dev0"

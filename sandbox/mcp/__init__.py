"""A Model Context Protocol server over stdio, with which assistants and editors run crash commands.

Its tools only read. The dump is in the same sandbox as with `vmbox run`. Only commands that are known to read are run,
scripts have a case of their own, grep, head and tail are done on the host, and long answers are split into pages.
"""

from sandbox.mcp.serving import serve, server

__all__ = ["serve", "server"]

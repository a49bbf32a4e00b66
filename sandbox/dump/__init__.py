"""Reading kernel crash dumps: plain Python, nothing executed, nothing written.

The file comes from a machine that is not ours, so every number in it is doubted, every read may be short, and time and
memory are bounded.
"""

from __future__ import annotations

from sandbox.dump.identification import identify

__all__ = ["identify"]

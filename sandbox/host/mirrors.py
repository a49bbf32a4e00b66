"""A site's own mirrors: the one place where a URL becomes another one.

The setting `mirrors` holds prefixes; in the environment "http://deb.debian.org=http://mirror.example:8080 …".
"""

from __future__ import annotations

import re

from sandbox.host import config


def rewrite(text: str) -> str:
    """`text` with the site's mirrors put in: one URL, a line of sources.list, or a whole file of them.

    Prefixes of image references ("docker.io=registry.example:5000/hub") are given the same way. A prefix counts only
    where host name and path component begin and end, the longest one wins, and what was put in is not looked at again.
    Raises `ConfigurationError` for an entry that is not FROM=TO.
    """
    mirrors = config.current().mirrors
    if not mirrors:
        return text
    longest_first = sorted(mirrors, key=len, reverse=True)
    pattern = "|".join(re.escape(prefix) for prefix in longest_first)
    return re.sub(rf"(?<![\w.-])({pattern})(?=[/\s?\]'\"]|$)", lambda found: mirrors[found[1]], text)

"""URLs of several servers in one text, and as they may be shown: without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

MASK = "********"
_BETWEEN = re.compile(r"\s*,\s*(?=[a-z]+://)")
"""A comma that a URL follows; another one is part of a password."""


def split_urls(urls: str) -> list[str]:
    """The URLs of a comma-separated list, of one too."""
    return _BETWEEN.split(urls.strip())


def mask_url(urls: str) -> str:
    """`urls` (comma-separated) without user names, passwords and tokens."""

    def mask(url: str) -> str:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{MASK}@{host}")) if "@" in parts.netloc else url

    return ",".join(mask(url) for url in split_urls(urls))

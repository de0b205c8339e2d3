"""URLs as they may be shown: credentials never reach a log or a message."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

MASK = "********"


def mask_url(urls: str) -> str:
    """`urls` (comma-separated) without user names, passwords and tokens."""

    def mask(url: str) -> str:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{MASK}@{host}")) if "@" in parts.netloc else url

    return ",".join(mask(url) for url in urls.split(","))

"""Which of several gateways to ask, and when to ask another one beside it.

Owns the order: one gateway is asked until it fails, so that connections stay warm; one that failed
is asked last for some seconds, and one that could not even be reached after all others. And the
bound on what hedged reads cost: where all reads are slow, few of them are asked twice.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from urllib.parse import urlsplit

from vector_db_client.errors import InvalidArgument

ASKED_LAST_S = 5.0
"""For how long a gateway that failed is asked last."""
LATE_S_MIN = 0.7
LATE_MEANS = 4.0
"""A read is late after so many times of what reads took lately: by Markov's inequality at most a
quarter of them is, however slow they all are."""
MEAN_WEIGHT = 0.1
"""Of the newest answer in the mean."""


def checked_urls(urls: str | Sequence[str]) -> tuple[str, ...]:
    """Base URLs without a trailing slash; a text may hold several, separated by commas.

    :raises InvalidArgument: none given, or one that is not http(s) with a host.
    """
    texts = (urls,) if isinstance(urls, str) else urls
    several = [url.strip() for text in texts for url in text.split(",")]
    if not several:
        raise InvalidArgument("url: at least one is needed")
    for url in several:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgument(f"url: needs the form http://host:port, is {url!r}")
    return tuple(url.rstrip("/") for url in several)


class Gateways:
    """The gateways at `urls`, and how each of them did lately. `now_s` is any one steady clock."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)
        self._current = 0
        self._failed: dict[int, tuple[bool, float]] = {}
        """By index: (whether it was out of reach, when)."""

    def __len__(self) -> int:
        return len(self._urls)

    def url(self, index: int) -> str:
        """Its base URL."""
        return self._urls[index]

    def choose(self, now_s: float) -> int:
        """The index of the one to ask now: the last one again, unless another did better."""
        count = len(self._urls)
        turn = [(self._current + i) % count for i in range(count)]
        self._current = min(turn, key=lambda index: self._rank(index, now_s))
        return self._current

    def other(self, busy: Container[int], now_s: float) -> int | None:
        """The index of the best one that is not among `busy`, None: all are. Changes no turn."""
        count = len(self._urls)
        turn = [(self._current + i) % count for i in range(count)]
        free = [index for index in turn if index not in busy]
        return min(free, key=lambda index: self._rank(index, now_s), default=None)

    def is_fresh(self, index: int, now_s: float) -> bool:
        """Whether it has not failed lately."""
        return self._rank(index, now_s)[0] == 0

    def failed(self, index: int, now_s: float, *, reached: bool) -> None:
        """It did not answer, or answered that it is unavailable."""
        self._failed[index] = (not reached, now_s)

    def answered(self, index: int) -> None:
        """It works."""
        self._failed.pop(index, None)

    def _rank(self, index: int, now_s: float) -> tuple[int, float]:
        """How late in the order it comes; of those that failed alike the earliest goes first."""
        unreached, failed_s = self._failed.get(index, (False, -ASKED_LAST_S))
        if index not in self._failed or now_s - failed_s >= ASKED_LAST_S:
            return 0, 0.0
        return 1 + unreached, failed_s


class Patience:
    """How long a read waits for one gateway before another one is asked, too."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    @property
    def late_s(self) -> float:
        """After this time a read that is not answered is late."""
        return max(LATE_S_MIN, LATE_MEANS * (self._mean_s or 0.0))

    def took(self, seconds: float) -> None:
        """A read was answered after so long."""
        mean_s = seconds if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + MEAN_WEIGHT * (seconds - mean_s)

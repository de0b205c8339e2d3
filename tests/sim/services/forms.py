"""The forms in which seeds of whole services are run."""

from __future__ import annotations

from enum import Enum


class Form(Enum):
    """What a run is about: shards with one replica, with three, or ones that move."""

    SINGLE = "single"
    REPLICATED = "replicated"
    MOVING = "moving"

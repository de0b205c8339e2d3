"""The vector instructions that this process's FAISS uses, as it says itself.

Owns the check that a process which was told to do without them does: the level is picked when
FAISS is loaded, so a setting that comes later would be ignored in silence.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss

from vector_db.common.model.errors import StartupError
from vector_db.common.service.simd import LEVEL_VARIABLE

faiss: Any = _faiss
GENERIC = "generic"


def simd_level() -> str:
    """`generic`, `avx2`, `avx512`, `avx512_spr`, `avx512_vpopcnt`, `arm_neon`, …"""
    name = str(faiss.SIMDConfig.get_level_name())
    return GENERIC if name == "NONE" else name.lower()


def check_simd(enabled: bool) -> None:
    """:raises StartupError: FAISS uses vector instructions although they are not `enabled`."""
    level = simd_level()
    if not enabled and level != GENERIC:
        raise StartupError(
            "performance.simd_enabled (VECTOR_DB_SIMD_ENABLED) is false, but FAISS was loaded"
            f" before with {level}: set {LEVEL_VARIABLE}=NONE before the process starts"
        )

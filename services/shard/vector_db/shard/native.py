"""The compiled loops, where this installation has them.

Without a C compiler the package installs all the same: FAISS walks the graphs then and NumPy
scores, with the same answers, a similarity's last bits aside. Owns the one place that knows.
"""

from __future__ import annotations

from types import ModuleType

native: ModuleType | None
try:
    from vector_db.shard import _native as native
except ImportError:
    native = None

MISSING = "none"


def native_level() -> str:
    """What the compiled loops use: `generic`, `avx2`, `avx512`; `none` where there are none."""
    return MISSING if native is None else str(native.LEVEL)

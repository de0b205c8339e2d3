"""Which vector instructions FAISS may use: said before its library loads, which looks only then.

FAISS 1.15 holds the code of every level in one library and picks one as it is loaded: the widest of
the CPU, or the one that `FAISS_SIMD_LEVEL` names (its older `FAISS_OPT_LEVEL` selects nothing any
more). Owns the rule that the setting goes into the environment of the process before any service is
imported, so that child processes, which inherit it, build and search alike.
"""

from __future__ import annotations

from collections.abc import MutableMapping

LEVEL_VARIABLE = "FAISS_SIMD_LEVEL"
_NO_LEVEL = "NONE"


def choose_simd(enabled: bool, environ: MutableMapping[str, str]) -> None:
    """Forbid vector instructions unless `enabled`; then the level is FAISS's choice, or that of the
    operator, who may have set the variable."""
    if not enabled:
        environ[LEVEL_VARIABLE] = _NO_LEVEL

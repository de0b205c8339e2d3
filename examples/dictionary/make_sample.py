"""Draw the 5,000 entries of this folder from a larger embedded WordNet.

Kept so that the sample can be checked and drawn again: the same source gives the same rows. Words
that people know come first, since their neighbours are worth looking at; the rest is random.

Usage: make_sample.py SOURCE_DIR   (with vectors.f16.npy and records.jsonl.gz)
"""

from __future__ import annotations

import collections
import gzip
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

SAMPLE_ROWS = 5_000
KNOWN_WORD_ROWS = 3_500
SENSES_PER_WORD_MAX = 2
SEED = 20_06
UNFIT = re.compile(r"offensive|disparag|obscen|ethnic slur|derogat|vulgar|slang|pejorat", re.I)
"""Glosses that mark a word as unfit for an example."""


def choose(records: list[dict[str, Any]]) -> list[int]:
    """Row numbers of the sample, ascending.

    How well a word is known is taken from how often the glosses themselves use it: a dictionary
    explains in common words.
    """
    used: collections.Counter[str] = collections.Counter()
    for record in records:
        used.update(re.findall(r"[a-z]+", record["gloss"].lower()))
    fit = [n for n, record in enumerate(records) if not UNFIT.search(record["gloss"])]
    known = [n for n in fit if re.fullmatch(r"[a-z]{3,12}", records[n]["lemma"])]
    known.sort(key=lambda n: (-used[records[n]["lemma"]], records[n]["id"]))
    senses: collections.Counter[str] = collections.Counter()
    chosen: list[int] = []
    for n in known:
        lemma = records[n]["lemma"]
        if senses[lemma] < SENSES_PER_WORD_MAX and len(chosen) < KNOWN_WORD_ROWS:
            senses[lemma] += 1
            chosen.append(n)
    taken = set(chosen)
    rest = [n for n in fit if n not in taken]
    chosen += random.Random(SEED).sample(rest, SAMPLE_ROWS - len(chosen))
    return sorted(chosen)


def main(source: Path, target: Path) -> None:
    """Write the sample of `source` into `target`."""
    with gzip.open(source / "records.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    rows = choose(records)
    vectors = np.load(source / "vectors.f16.npy", mmap_mode="r")
    np.save(target / "vectors.f16.npy", vectors[rows])
    text = "".join(json.dumps(records[n], ensure_ascii=False) + "\n" for n in rows)
    # mtime 0: the same rows give the same bytes.
    (target / "records.jsonl.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parent)

"""The tokenizer of the demo models: a small byte-pair vocabulary for open_clip's SimpleTokenizer.

Every word of the grammar is one token; any other text falls back to bytes.
"""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any, Final

from serve_app.demo import wording

MERGES_FILE: Final = "demo.bpe.gz"
CONTEXT_LENGTH: Final = 24
"""Tokens that the text towers read, start and end of text included."""

_HEADER: Final = "#version: 0.2 - serve_app demo"


def merges() -> list[tuple[str, str]]:
    """Learn the merges that make each word of the grammar one token.

    The most frequent pair of neighbours is merged first, as in byte-pair encoding (Sennrich et
    al. 2016), until nothing is left to merge. Ties go to the alphabet, so the list is always the
    same.
    """
    # Digits and punctuation are split off by SimpleTokenizer and are single tokens already.
    words = [[*w[:-1], w[-1] + "</w>"] for w in wording.lexicon() if w.isalpha()]
    learned: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for word in words:
            for pair in itertools.pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return learned
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        learned.append(best)
        words = [_merge(word, best) for word in words]


def write_merges(folder: Path) -> Path:
    """Write the merges as SimpleTokenizer reads them: gzip, a header line, one merge a line."""
    path = folder / MERGES_FILE
    # No newline at the end: SimpleTokenizer would read an empty last line as an empty merge.
    text = "\n".join([_HEADER, *(f"{a} {b}" for a, b in merges())])
    partial = path.with_suffix(".tmp")
    partial.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    partial.replace(path)
    return path


def tokenizer(folder: Path) -> Any:
    """open_clip's SimpleTokenizer over the merges in a folder.

    Returns:
        A callable: texts to `int64` token ids of shape (texts, CONTEXT_LENGTH).
    """
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(folder / MERGES_FILE), context_length=CONTEXT_LENGTH)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            merged.append(word[i] + word[i + 1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged

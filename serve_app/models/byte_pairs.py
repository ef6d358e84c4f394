"""CLIP's byte-pair tokens of a text, from a vocabulary file; knows no torch and no model.

The vocabulary is the file that OpenAI published with CLIP, or one of the same form: a line of
comment, then a pair of tokens to merge per line, the most frequent first.
"""

from __future__ import annotations

import functools
import gzip
import heapq
import html
import importlib.util
import zlib
from collections.abc import Mapping
from pathlib import Path

import ftfy
import regex

from serve_app.errors import ModelLoadError

MAX_CACHED_WORDS = 50_000
"""Words whose tokens are remembered."""

LONG_WORD = 48
"""Letters from which a word is not remembered."""

_WORDS = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)
_SPECIAL = 2
"""Tokens at the vocabulary's end: start of text, end of text."""

_GZIP = b"\x1f\x8b"


class BytePairs:
    """Makes token ids as CLIP was trained with (Radford et al. 2021, section 2.4).

    A text cannot contain the special tokens: their names are text like any other.

    Args:
        path: The vocabulary, gzipped or plain.
        size: Tokens that the model knows; pairs beyond are not merged.

    Raises:
        ModelLoadError: The file cannot be read, or has too few pairs for this size.
    """

    def __init__(self, path: Path, size: int) -> None:
        letters = _letters()
        pairs = _pairs(path, size - 2 * len(letters) - _SPECIAL)
        ends = [f"{letter}</w>" for letter in letters.values()]
        tokens = [*letters.values(), *ends, *map("".join, pairs)]
        self._letters = letters
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._remembered = functools.lru_cache(MAX_CACHED_WORDS)(self._word)
        self.start = size - 2
        self.end = size - 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text, start and end included."""
        cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
        ids = [self.start]
        for word in _WORDS.findall(" ".join(cleaned.split()).lower()):
            ids.extend(self._word(word) if len(word) > LONG_WORD else self._remembered(word))
        return [*ids, self.end]

    def _word(self, word: str) -> tuple[int, ...]:
        letters = "".join(map(self._letters.__getitem__, word.encode()))
        return tuple(map(self._ids.__getitem__, merge(letters, self._ranks)))


def default_vocabulary() -> Path:
    """The vocabulary that CLIP was published with, as open_clip's package has it.

    The package is found, not imported.

    Raises:
        ModelLoadError: It is not installed.
    """
    package = importlib.util.find_spec("open_clip")
    for place in (package and package.submodule_search_locations) or ():
        path = Path(place, "bpe_simple_vocab_16e6.txt.gz")
        if path.is_file():
            return path
    raise ModelLoadError(
        "CLIP's vocabulary, which the package open_clip_torch has, is not here; install that, or "
        "name the file in `options.vocabulary`."
    )


def _letters() -> dict[int, str]:
    """A visible letter for each byte: its own where it has one, else one from 256 on.

    In the vocabulary's order, which begins with the visible ones.
    """
    visible = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
    others = (byte for byte in range(256) if byte not in visible)
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + number) for number, byte in enumerate(others)
    }


def _pairs(path: Path, count: int) -> list[tuple[str, str]]:
    """The first `count` pairs of a vocabulary."""
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == _GZIP else content).decode()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ModelLoadError(f"The vocabulary {path} cannot be read: {error}.") from error
    lines = (line.split() for line in text.splitlines()[1 : count + 1])
    pairs = [(line[0], line[1]) for line in lines if len(line) == 2]
    if count < 0 or len(pairs) != count:
        raise ModelLoadError(
            f"The vocabulary {path} is not the one that the weights were trained with: it gives "
            f"{len(pairs)} pairs of tokens, and they take {count}. Name theirs in "
            "`options.vocabulary`."
        )
    return pairs


def merge(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merges a word's letters to tokens, exactly as open_clip's `bpe`, in n log n steps.

    open_clip looks at every pair again after each merge: one word of 10,000 letters costs it
    seconds. A linked list and a heap of pairs do the same merges in the same order: of all pairs
    the lowest rank first, every occurrence of it from left to right, then the next.

    Args:
        word: At least one letter, each standing for a byte.
        ranks: Rank of each pair that may be merged.

    Returns:
        The tokens, the last one ending in `</w>`.
    """
    tokens: list[str | None] = [*word[:-1], word[-1] + "</w>"]
    after = [*range(1, len(tokens)), -1]
    before = list(range(-1, len(tokens) - 1))
    heap: list[tuple[int, int]] = []

    def rank_at(left: int) -> int | None:
        first, right = tokens[left], after[left]
        second = tokens[right] if right >= 0 else None
        return None if first is None or second is None else ranks.get((first, second))

    def push(left: int) -> None:
        rank = rank_at(left)
        if rank is not None:
            heapq.heappush(heap, (rank, left))

    for left in range(len(tokens)):
        push(left)
    while heap:
        rank = heap[0][0]
        occurrences = []
        while heap and heap[0][0] == rank:  # popped together: new pairs wait for the next round
            occurrences.append(heapq.heappop(heap)[1])
        for left in occurrences:
            if rank_at(left) != rank:  # an earlier merge took one of the two
                continue
            right = after[left]
            tokens[left] = f"{tokens[left]}{tokens[right]}"
            tokens[right] = None
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            if before[left] >= 0:
                push(before[left])
            push(left)
    return [token for token in tokens if token is not None]

"""Texts to token ids as open_clip makes them, and how long each whole text is; knows no tower."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

from serve_app.errors import MissingExtraError, ModelLoadError

MAX_CACHED_WORDS = 50_000
"""Words whose tokens are remembered; open_clip's own cache grows with every new word, for ever."""

LONG_WORD = 48
"""Letters from which a word is merged by `merge_long` and is not remembered."""


class TextTokenizer(Protocol):
    """Makes token ids, padded to the context, and counts tokens."""

    context_length: int

    def ids(self, texts: Sequence[str]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Token ids, int64, shape (texts, context), cut as open_clip cuts; and `count`."""

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text before any cut, special tokens counted."""


def make_tokenizer(text: Mapping[str, Any]) -> TextTokenizer:
    """Makes the tokenizer that `open_clip.get_tokenizer` makes for a text configuration.

    `reduction_mask`, a training-time option which drops random tokens of long texts, is ignored:
    a score must not depend on chance.

    Raises:
        MissingExtraError: It needs transformers, which is not installed.
        ModelLoadError: Its files cannot be found or read.
    """
    context = int(text.get("context_length", DEFAULT_CONTEXT_LENGTH))
    options = dict(text.get("tokenizer_kwargs") or {})
    options.pop("reduction_mask", None)
    name = text.get("hf_tokenizer_name")
    try:
        if not name:
            return BytePairTokenizer(context, options)
        return HubTokenizer(str(name), context, text.get("tokenizer_mode"), options)
    except ImportError as error:
        raise MissingExtraError(
            f"The tokenizer {name!r} needs a package that is not installed ({error}). "
            "Run: pip install 'serve-app[siglip]'"
        ) from error
    except Exception as error:  # hub, disk and parser errors of several libraries
        raise ModelLoadError(
            f"The tokenizer {name or options.get('bpe_path') or 'of open_clip'} cannot be loaded "
            f"({type(error).__name__}: {error}). Connect to the network, bring its files into "
            "HF_HOME, or set `hf_tokenizer_name` to a folder beside the architecture file."
        ) from error


class _BoundedSimpleTokenizer(SimpleTokenizer):  # type: ignore[misc]  # open_clip is untyped
    """open_clip's tokenizer with bounded memory, and time that grows as n log n with a word."""

    cache: dict[str, str]

    def bpe(self, token: str) -> str:
        if len(token) > LONG_WORD:
            return " ".join(merge_long(token, self.bpe_ranks))
        if len(self.cache) >= MAX_CACHED_WORDS and token not in self.cache:
            special = {self.decoder[token_id] for token_id in self.all_special_ids}
            self.cache = {word: word for word in special}
        merged: str = super().bpe(token)
        return merged


class BytePairTokenizer:
    """CLIP's byte-pair tokenizer; ids equal open_clip's for every text, also for cut ones."""

    def __init__(self, context_length: int, options: Mapping[str, Any]) -> None:
        self.context_length = context_length
        self._tokenizer = _BoundedSimpleTokenizer(context_length=context_length, **options)

    def ids(self, texts: Sequence[str]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """See `TextTokenizer`."""
        result = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        counts = []
        for row, text in enumerate(texts):
            tokens = self._encode(text)
            counts.append(len(tokens))
            if len(tokens) > self.context_length:
                tokens = tokens[: self.context_length]
                tokens[-1] = self._tokenizer.eot_token_id
            result[row, : len(tokens)] = torch.tensor(tokens)
        return result, tuple(counts)

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """See `TextTokenizer`."""
        return tuple(len(self._encode(text)) for text in texts)

    def _encode(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]


class HubTokenizer:
    """A tokenizer of the transformers library, as open_clip wraps it; padded to the context."""

    def __init__(
        self, name: str, context_length: int, mode: str | None, options: Mapping[str, Any]
    ) -> None:
        self.context_length = context_length
        self._tokenizer = HFTokenizer(
            name, context_length=context_length, tokenizer_mode=mode, **options
        )

    def ids(self, texts: Sequence[str]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """See `TextTokenizer`."""
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long), ()
        ids: torch.Tensor = self._tokenizer(list(texts))
        return ids, self.count(texts)

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """See `TextTokenizer`."""
        if not texts:
            return ()
        clips = self._tokenizer.tokenizer_mode == "clips"  # adds three special tokens itself
        whole = self._tokenizer.tokenizer(
            [self._tokenizer.clean_fn(text) for text in texts],
            add_special_tokens=not clips,
            padding=False,
            truncation=False,
            verbose=False,  # else it logs that the text is too long, which the caller is told
        )
        return tuple(len(ids) + 3 * clips for ids in whole["input_ids"])


def merge_long(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
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

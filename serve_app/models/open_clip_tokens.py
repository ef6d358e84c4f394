"""Texts to token ids as open_clip makes them, and how long each whole text is; knows no tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

from serve_app.errors import MissingExtraError, ModelLoadError
from serve_app.models.byte_pairs import LONG_WORD, MAX_CACHED_WORDS, merge


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
    """open_clip's tokenizer with bounded memory, and time that grows as n log n with a word.

    Its own cache grows with every new word, for ever.
    """

    cache: dict[str, str]

    def bpe(self, token: str) -> str:
        if len(token) > LONG_WORD:
            return " ".join(merge(token, self.bpe_ranks))
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

"""Texts as a transformers model was trained to read them; knows no family by name but one rule.

The rules, each with the silent error that it keeps out:

- Models with a sigmoid loss (SigLIP, SigLIP 2) read the padding: their text is padded to the whole
  context. Padded to the longest text of a batch, scores are plausible and wrong, and depend on the
  batch. All others get an attention mask, and as much padding as the batch needs.
- What the tokenizer gives is what the model gets: SigLIP's gives no attention mask, and one of our
  own making would hide the padding it was trained to read.
- The context is the smaller one of what tokenizer and position embeddings allow: tokenizers of
  converted checkpoints often claim to be endless, and some models count positions from behind the
  padding token (RoBERTa), which takes two off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from serve_app.errors import ModelLoadError

_ENDLESS = 100_000
"""From here on a tokenizer's length means that nobody set it."""

_STEP = 8
"""Padding to steps: every other length is another shape, for which kernels are made and kept."""


class TransformersTokens:
    """Texts as rows of a tokenizer's output, and batches of those.

    Args:
        tokenizer: Of the checkpoint.
        context_length: Most tokens of a text.
        device: Where batches go.
        full: Whether texts are padded to the whole context; else to the longest of a batch.
    """

    def __init__(
        self, tokenizer: Any, context_length: int, device: torch.device, *, full: bool = False
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ModelLoadError(
                "The tokenizer has no padding token, so texts cannot be put into one batch; set "
                "`pad_token` in its tokenizer_config.json to what the model was trained with."
            )
        self.context_length = context_length
        self._tokenizer = tokenizer
        self._device = device
        self._full = full

    def rows(self, texts: Sequence[str]) -> list[Mapping[str, Any]]:
        """What the tokenizer gives for each text, cut to the context, without padding."""
        if not texts:
            return []
        encoded = self._tokenizer(
            list(texts), truncation=True, max_length=self.context_length, padding=False
        )
        return [{name: encoded[name][row] for name in encoded} for row in range(len(texts))]

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows, at least one, padded, on the device."""
        longest = max(len(row["input_ids"]) for row in rows)
        length = self.context_length
        if not self._full:
            length = min(-(-longest // _STEP) * _STEP, length)
        padded = self._tokenizer.pad(
            list(rows), padding="max_length", max_length=length, return_tensors="pt"
        )
        return {name: value.to(self._device) for name, value in padded.items()}

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""
        if not texts:
            return ()
        whole = self._tokenizer(list(texts), truncation=False, padding=False, verbose=False)
        return tuple(map(len, whole["input_ids"]))


class TransformersTexts:
    """A `TextTower` of a dual encoder of the transformers library.

    Args:
        model: With `get_text_features`.
        tokenizer: Of the same checkpoint.
        device: Where the model is.
        reads_padding: Whether it was trained on texts padded to the whole context.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: torch.device, *, reads_padding: bool
    ) -> None:
        self._tokens = TransformersTokens(
            tokenizer, context_length(model.config, tokenizer), device, full=reads_padding
        )
        self.context_length = self._tokens.context_length
        self._model = model

    def tokens(self, texts: Sequence[str]) -> tuple[list[Mapping[str, Any]], tuple[int, ...]]:
        """See `TextTower`."""
        return self._tokens.rows(texts), self.count(texts)

    def features(self, tokens: list[Mapping[str, Any]], rows: Sequence[int]) -> torch.Tensor:
        """See `TextTower`."""
        given = self._tokens.batch([tokens[row] for row in rows])
        return pooled(self._model.get_text_features(**given))

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """See `TextTower`."""
        return self._tokens.count(texts)


def context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that a model reads of a text.

    Raises:
        ModelLoadError: Neither model nor tokenizer say.
    """
    text = getattr(config, "text_config", config)
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and getattr(text, "model_type", "") in _COUNT_BEHIND_PADDING:
        positions -= int(text.pad_token_id) + 1
    claimed = int(tokenizer.model_max_length)
    limits = [limit for limit in (positions, claimed) if limit is not None and limit < _ENDLESS]
    if not limits:
        raise ModelLoadError(
            "Neither the model's configuration nor its tokenizer say how long a text may be; set "
            "`model_max_length` in tokenizer_config.json."
        )
    return min(limits)


_COUNT_BEHIND_PADDING = ("altclip_text_model", "camembert", "roberta", "xlm-roberta")


def pooled(output: Any) -> torch.Tensor:
    """The features in what `get_text_features` and `get_image_features` return."""
    found = output if isinstance(output, torch.Tensor) else output.pooler_output
    if not isinstance(found, torch.Tensor) or found.ndim != 2:
        raise ModelLoadError("The model gives no features of shape (items, dimension).")
    return found

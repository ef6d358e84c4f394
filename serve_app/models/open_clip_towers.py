"""The two towers of an OpenCLIP model, each by the shortest way that gives the same features.

Chooses by what the model is, never by its name; whatever has no shorter way runs as open_clip runs
it. Knows neither tokenizers nor preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip import CLIP
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import nn

from serve_app.models.open_clip_blocks import Packing, plain_blocks, run_blocks

_ROWS_STEP = 16
"""Texts of a batch have almost any number of tokens, and oneDNN keeps kernels and their memory for
every number it has met: without steps, a replica grows by hundreds of megabytes for hours."""

Tower = Callable[[torch.Tensor], torch.Tensor]
"""Pixels (n, 3, height, width) on the device, or token ids (n, context) on the CPU, to features
(n, dimension), not normalised."""


def image_tower(model: Any) -> Tower:
    """The image tower of a model."""
    visual = model.visual
    blocks = plain_blocks(getattr(visual, "transformer", None))
    reads_class_token = (
        type(visual) is VisionTransformer
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and not visual.output_tokens
    )
    if blocks is None or not reads_class_token:
        return lambda pixels: model.encode_image(pixels, normalize=False)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        tokens = visual._embeds(pixels)
        count, length, width = tokens.shape
        packing = Packing(torch.full((count,), length), tokens.device)
        first = torch.arange(0, count * length, length, device=tokens.device)
        pooled = run_blocks(blocks, tokens.reshape(-1, width), packing, first, causal=False)
        return _project(visual.ln_post(pooled), visual.proj)

    return run


def text_tower(model: Any, device: torch.device) -> Tower:
    """The text tower of a model.

    A causal tower that is read at the end-of-text token never sees the padding behind it, so that
    padding is not computed. Not so where the padding is part of the input (bidirectional towers)
    or stands before the token that is read (CoCa): those run in full length.
    """
    tower = getattr(model, "text", model)  # CLIP holds its text tower's parts itself
    pool = getattr(tower, "text_pool_type" if isinstance(tower, CLIP) else "pool_type", None)
    cuttable = (
        isinstance(tower, CLIP | TextTransformer)
        and tower.attn_mask is not None
        and getattr(tower, "cls_emb", None) is None
        and not getattr(tower, "use_pad_mask", False)
        and (isinstance(tower, CLIP) or not tower.output_tokens)
        and pool in ("argmax", "eos")
    )
    if not cuttable:
        return lambda ids: model.encode_text(ids.to(device), normalize=False)
    eos = tower.text_eos_id if isinstance(tower, CLIP) else tower.eos_id
    blocks = plain_blocks(tower.transformer)

    def run(ids: torch.Tensor) -> torch.Tensor:
        # The same choice as open_clip's `text_global_pool`.
        ends = ids.argmax(dim=-1) if pool == "argmax" else (ids == eos).int().argmax(dim=-1)
        dtype = tower.transformer.get_cast_dtype()
        packing = Packing(ends + 1, device, _ROWS_STEP if device.type == "cpu" else 1)
        if blocks is not None:
            flat = ids[:, : packing.longest].to(device)[packing.valid]
            rows = tower.token_embedding(flat).to(dtype)
            rows = rows + tower.positional_embedding[packing.positions].to(dtype)
            rows = packing.with_spare(rows)
            pooled = run_blocks(blocks, rows, packing, packing.last, causal=True)
        else:
            length = packing.longest
            tokens = tower.token_embedding(ids[:, :length].to(device)).to(dtype)
            tokens = tokens + tower.positional_embedding[:length].to(dtype)
            tokens = tower.transformer(tokens, attn_mask=tower.attn_mask[:length, :length])
            pooled = tokens[torch.arange(len(ids), device=device), ends.to(device)]
        return _project(tower.ln_final(pooled), tower.text_projection)

    return run


def _project(features: torch.Tensor, projection: Any) -> torch.Tensor:
    result: torch.Tensor = features
    if isinstance(projection, nn.Linear):
        result = projection(features)
    elif projection is not None:
        result = features @ projection
    return result

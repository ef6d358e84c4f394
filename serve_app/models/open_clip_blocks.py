"""Transformer blocks on rows of several sequences at once, without padding and without waste.

Two exact savings over open_clip's own loop, for its default block only: sequences of different
length are computed row by row, padded for the attention alone; and the last block, of which one
token per sequence is read, computes queries, output and MLP for that token only. Knows no text,
no image and no model; results equal open_clip's up to rounding (1e-6 in fp32).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock, Transformer
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom


class Packing:
    """Where the rows of each sequence stand when sequences follow one another in one matrix.

    Args:
        lengths: Rows per sequence, int64 on the CPU, each at least 1.
        device: Where the rows are.
        step: The matrix gets spare rows, up to a multiple of this.
    """

    def __init__(self, lengths: torch.Tensor, device: torch.device, step: int = 1) -> None:
        self.count = len(lengths)
        self._rows = int(lengths.sum())
        self._spare = -self._rows % step
        self.longest = int(lengths.max())
        self.last = (lengths.cumsum(0) - 1).to(device)
        steps = torch.arange(self.longest)
        valid = steps[None, :] < lengths[:, None]
        self.ragged = not bool(valid.all())
        self.valid = valid.to(device)
        self.positions = steps.expand(self.count, -1)[valid].to(device)
        self._slots = valid.flatten().nonzero().squeeze(1).to(device)

    def pad(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, width) to (sequences, longest, width), zeros where a sequence has ended."""
        rows = rows[: self._rows]
        if not self.ragged:
            return rows.view(self.count, self.longest, -1)
        padded = rows.new_zeros(self.count * self.longest, rows.shape[1])
        padded[self._slots] = rows
        return padded.view(self.count, self.longest, -1)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """(sequences, longest, width) to (rows, width)."""
        rows = padded.reshape(self.count * self.longest, -1)
        return self.with_spare(rows[self._slots] if self.ragged else rows)

    def with_spare(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all sequences, and the spare ones."""
        return F.pad(rows, (0, 0, 0, self._spare)) if self._spare else rows


def plain_blocks(transformer: Any) -> Sequence[ResidualAttentionBlock] | None:
    """The blocks of a transformer if all are open_clip's default ones, else None."""
    if type(transformer) is not Transformer:
        return None
    blocks = list(transformer.resblocks)
    return blocks if blocks and all(_is_plain(block) for block in blocks) else None


def _is_plain(block: nn.Module) -> bool:
    if type(block) is not ResidualAttentionBlock or hasattr(block, "ln_1_kv"):
        return False
    attention = block.attn
    return (
        type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.in_proj_bias is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


def run_blocks(
    blocks: Sequence[ResidualAttentionBlock],
    rows: torch.Tensor,
    packing: Packing,
    read: torch.Tensor,
    *,
    causal: bool,
) -> torch.Tensor:
    """Runs blocks and returns one row per sequence.

    Args:
        blocks: As `plain_blocks` gives them.
        rows: Shape (rows, width).
        packing: Where the rows of each sequence stand.
        read: Index of the row to return of each sequence; where `causal`, the sequence's last.
        causal: Whether a row sees only itself and those before it.

    Returns:
        Shape (sequences, width).
    """
    for block in blocks[:-1]:
        rows = _run(block, rows, packing, causal=causal)
    return _run_last(blocks[-1], rows, packing, read)


def _run(
    block: ResidualAttentionBlock, rows: torch.Tensor, packing: Packing, *, causal: bool
) -> torch.Tensor:
    attention = block.attn
    states = F.linear(block.ln_1(rows), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = _heads(packing.pad(states), 3, attention.num_heads)
    # Padding stands after a sequence's rows, so the causal mask hides it from them as well.
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    mixed = packing.pack(mixed.transpose(1, 2).flatten(2))
    return _finish(block, rows, mixed)


def _run_last(
    block: ResidualAttentionBlock, rows: torch.Tensor, packing: Packing, read: torch.Tensor
) -> torch.Tensor:
    attention, width = block.attn, rows.shape[1]
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(rows)
    states = F.linear(normed, weight[width:], bias[width:])
    key, value = _heads(packing.pad(states), 2, attention.num_heads)
    query = F.linear(normed[read], weight[:width], bias[:width])
    (query,) = _heads(query[:, None], 1, attention.num_heads)
    mask = packing.valid[:, None, None, :] if packing.ragged else None
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return _finish(block, rows[read], mixed.flatten(1))


def _heads(states: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """(count, length, parts * width) to `parts` of (count, heads, length, width / heads)."""
    split = states.view(*states.shape[:2], parts, heads, -1)
    return split.permute(2, 0, 3, 1, 4).unbind(0)


def _finish(block: ResidualAttentionBlock, rows: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    out = block.attn.out_proj
    rows = rows + block.ls_1(F.linear(mixed, out.weight, out.bias))
    result: torch.Tensor = rows + block.ls_2(block.mlp(block.ln_2(rows)))
    return result

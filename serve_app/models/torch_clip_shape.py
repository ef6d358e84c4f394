"""The sizes of a CLIP, read off the tensors of a checkpoint in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

_HEAD_WIDTH = 64
"""All of OpenAI's attention heads are so wide; a checkpoint does not say."""


@dataclass(frozen=True, slots=True)
class ClipShape:
    """Sizes of a CLIP.

    Attributes:
        dimension: Of the embeddings.
        image_size: Height and width of images.
        patch_size: Of a vision transformer; None for a residual network.
        vision_width: Of a transformer, or of a residual network's first stage.
        vision_layers: Blocks of a transformer; of each of the four stages of a residual network.
        context: Tokens of a text.
        vocabulary: Tokens that are known.
        text_width: Of the text transformer.
        text_layers: Its blocks.
    """

    dimension: int
    image_size: int
    patch_size: int | None
    vision_width: int
    vision_layers: tuple[int, ...]
    context: int
    vocabulary: int
    text_width: int
    text_layers: int


def shape_of(state: Mapping[str, torch.Tensor]) -> ClipShape:
    """Reads the sizes off a checkpoint.

    Raises:
        KeyError: A tensor is not there that every CLIP of this kind has.
    """
    dimension = state["text_projection"].shape[1]
    if "visual.proj" in state:
        width, _, patch_size, _ = state["visual.conv1.weight"].shape
        grid = round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5)
        image_size, patch = patch_size * grid, patch_size
        layers: tuple[int, ...] = (_count(state, "visual.transformer.resblocks"),)
    else:
        width = state["visual.layer1.0.conv1.weight"].shape[0]
        grid = round((state["visual.attnpool.positional_embedding"].shape[0] - 1) ** 0.5)
        image_size, patch = grid * 32, None
        layers = tuple(_count(state, f"visual.layer{stage}") for stage in (1, 2, 3, 4))
    return ClipShape(
        dimension=dimension,
        image_size=image_size,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers,
        context=state["positional_embedding"].shape[0],
        vocabulary=state["token_embedding.weight"].shape[0],
        text_width=state["ln_final.weight"].shape[0],
        text_layers=_count(state, "transformer.resblocks"),
    )


def _count(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    depth = prefix.count(".") + 1
    return len({name.split(".")[depth] for name in state if name.startswith(f"{prefix}.")})


def split_heads(values: torch.Tensor) -> torch.Tensor:
    """(n, length, width) to (n, heads, length, head width)."""
    count, length, width = values.shape
    return values.view(count, length, width // _HEAD_WIDTH, _HEAD_WIDTH).transpose(1, 2)

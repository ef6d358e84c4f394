"""CLIP in plain torch, shaped as the tensors of a checkpoint say; knows no file and no token.

Modules are named as in the checkpoints that OpenAI published, so that these load as they are
(Radford et al. 2021). Only what is computed when a model is used is here, nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.models.torch_clip_resnet import ResidualNetwork
from serve_app.models.torch_clip_shape import ClipShape, split_heads

Activation = Callable[[torch.Tensor], torch.Tensor]


def quick_gelu(values: torch.Tensor) -> torch.Tensor:
    """OpenAI's approximation of GELU, which its models were trained with."""
    return values * torch.sigmoid(1.702 * values)


class Clip(nn.Module):
    """Both towers.

    Args:
        shape: Its sizes.
        activation: Of the transformers' hidden layers: `quick_gelu`, or torch's `gelu`.
    """

    def __init__(self, shape: ClipShape, activation: Activation) -> None:
        super().__init__()
        self.shape = shape
        width = shape.text_width
        self.visual: nn.Module
        if shape.patch_size is None:
            self.visual = ResidualNetwork(shape)
        else:
            self.visual = VisionTransformer(shape, shape.patch_size, activation)
        self.transformer = Transformer(width, shape.text_layers, activation)
        self.token_embedding = nn.Embedding(shape.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(shape.context, width))
        self.ln_final = LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, shape.dimension))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def texts(self, ids: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Features (texts, dimension), not normalised.

        Args:
            ids: Token ids, int64, (texts, length); the length may be any up to the context.
            ends: Where each text's end token stands, int64, (texts,). What is behind it has no
                part in the result: the tower is causal.
        """
        tokens = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        tokens = self.transformer(tokens, causal=True)
        pooled = tokens[torch.arange(len(ids), device=ids.device), ends]
        features: torch.Tensor = self.ln_final(pooled) @ self.text_projection
        return features


class VisionTransformer(nn.Module):
    """Patches and a class token, whose last state is the image's."""

    def __init__(self, shape: ClipShape, patch_size: int, activation: Activation) -> None:
        super().__init__()
        width = shape.vision_width
        grid = shape.image_size // patch_size
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, shape.vision_layers[0], activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, shape.dimension))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (n, 3, height, width) to features (n, dimension)."""
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(pixels), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.positional_embedding
        tokens = self.transformer(self.ln_pre(tokens), causal=False)
        features: torch.Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return features


class Transformer(nn.Module):
    """Blocks, one after another."""

    def __init__(self, width: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, activation) for _ in range(layers))

    def forward(self, tokens: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """Tokens (n, length, width) to tokens."""
        for block in self.resblocks:
            tokens = block(tokens, causal=causal)
        return tokens


class Block(nn.Module):
    """Attention and a hidden layer, each added to what came in."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width)
        self.attn = Attention(width)
        self.ln_2 = LayerNorm(width)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )
        self._activation = activation

    def forward(self, tokens: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """Tokens (n, length, width) to tokens."""
        tokens = tokens + self.attn(self.ln_1(tokens), causal=causal)
        hidden = self._activation(self.mlp["c_fc"](self.ln_2(tokens)))
        added: torch.Tensor = tokens + self.mlp["c_proj"](hidden)
        return added


class Attention(nn.Module):
    """Self-attention with queries, keys and values in one matrix, as torch's own stores it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """Tokens (n, length, width) to tokens."""
        parts = F.linear(tokens, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        query, key, value = map(split_heads, parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        joined: torch.Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return joined


class LayerNorm(nn.LayerNorm):
    """Computes in the precision of its own parameters, which stay in fp32."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As torch's own; the result has the type that came in."""
        return super().forward(values.to(self.weight.dtype)).to(values.dtype)


KEPT_IN_FULL: tuple[type[nn.Module], ...] = (LayerNorm, nn.BatchNorm2d)
"""Modules whose tensors stay in fp32 in every precision."""

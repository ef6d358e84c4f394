"""CLIP's residual network in plain torch; knows no file and no text.

Named as in OpenAI's checkpoints, like `torch_clip_network`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.models.torch_clip_shape import ClipShape, split_heads


class ResidualNetwork(nn.Module):
    """CLIP's ResNet: a stem of three convolutions, antialiased strides, pooling by attention."""

    def __init__(self, shape: ClipShape) -> None:
        super().__init__()
        width = shape.vision_width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(shape.vision_layers):
            inner = width * 2**stage
            strides = [1 if stage == 0 else 2, *[1] * (blocks - 1)]
            made = []
            for stride in strides:
                made.append(Bottleneck(channels, inner, stride))
                channels = 4 * inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*made))
        self.attnpool = AttentionPool(shape.image_size // 32, channels, shape.dimension)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (n, 3, height, width) to features (n, dimension)."""
        stem = (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)
        maps = pixels
        for convolution, norm in stem:
            maps = F.relu(norm(convolution(maps)))
        maps = F.avg_pool2d(maps, 2)
        for stage in (1, 2, 3, 4):
            maps = self.get_submodule(f"layer{stage}")(maps)
        features: torch.Tensor = self.attnpool(maps)
        return features


class Bottleneck(nn.Module):
    """A residual block; a stride is an average over the field, after the convolution."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or channels != 4 * inner:
            # Numbered as in the checkpoints, where the average in front has no tensors.
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
            )
        self._stride = stride

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, channels, height, width) to maps."""
        found = F.relu(self.bn1(self.conv1(maps)))
        found = F.relu(self.bn2(self.conv2(found)))
        found = self.bn3(self.conv3(self._averaged(found)))
        if self.downsample is not None:
            maps = self.downsample(self._averaged(maps))
        return F.relu(found + maps)

    def _averaged(self, maps: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(maps, self._stride) if self._stride > 1 else maps


class AttentionPool(nn.Module):
    """The mean of all fields asks them, by attention, for the image's features."""

    def __init__(self, grid: int, width: int, dimension: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, dimension)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, width, grid, grid) to features (n, dimension)."""
        fields = maps.flatten(2).transpose(1, 2)
        fields = torch.cat([fields.mean(dim=1, keepdim=True), fields], dim=1)
        fields = fields + self.positional_embedding.to(fields.dtype)
        query = split_heads(self.q_proj(fields[:, :1]))
        key, value = split_heads(self.k_proj(fields)), split_heads(self.v_proj(fields))
        mixed = F.scaled_dot_product_attention(query, key, value)
        features: torch.Tensor = self.c_proj(mixed.transpose(1, 2).flatten(1))
        return features

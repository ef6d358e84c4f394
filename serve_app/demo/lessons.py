"""What training teaches beside captions, by readers that are thrown away; knows no batch.

`Sight` reads off the first stages of the image tower which shape and colour is where. `Reading`
reads off an embedding, of a picture or of a caption alike, what stands at each side of it: the same
reader for both, so that both towers come to say it in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from open_clip.model import CLIP
from torch.nn import functional

from serve_app.demo.scenes import COLOURS
from serve_app.demo.shapes import SHAPES

UNCLEAR: Final = -100
"""The class that `cross_entropy` passes over."""

_SHARPNESS: Final = 8.0
"""Unit vectors are multiplied by it, or a linear reader could not be sure of anything."""
_NAMED_WEIGHT: Final = 10.0
"""Most of the combinations are absent: their mean says little about the few that are there."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures, and what they show where.

    `pixels` is `uint8` of shape (n, 3, size, size), 0-255. `shapes` and `colours` are `int64` of
    shape (n, cells), for the cells of `network.GRID` row by row: 0 for the background, else one
    more than the place in `SHAPES` or `COLOURS`.
    """

    pixels: torch.Tensor
    shapes: torch.Tensor
    colours: torch.Tensor


@dataclass(frozen=True, slots=True)
class Content:
    """What pictures show, or captions claim.

    `sides` is `int64` of shape (n, 4, 2): shape and colour of what is furthest left, right, up and
    down, `UNCLEAR` where that is open. `named` is `float32` of shape (n, shapes x colours): 1 for
    each combination that is there.
    """

    sides: torch.Tensor
    named: torch.Tensor


class Sight(torch.nn.Module):
    """The image tower in two parts, and what reads shapes and colours off the first one.

    Args:
        model: The dual encoder that the tower belongs to.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.tower = model.visual
        channels = self.tower.layer2[-1].bn3.num_features
        self.shape = torch.nn.Conv2d(channels, 1 + len(SHAPES), 1)
        self.colour = torch.nn.Conv2d(channels, 1 + len(COLOURS), 1)

    def stages(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the first stages see: float32 of shape (n, channels, `GRID`, `GRID`)."""
        seen: torch.Tensor = self.tower.layer2(self.tower.layer1(self.tower.stem(pixels)))
        return seen

    def rest(self, seen: torch.Tensor) -> torch.Tensor:
        """The picture's embedding, not normalised, from what `stages` saw."""
        embedding: torch.Tensor = self.tower.attnpool(self.tower.layer4(self.tower.layer3(seen)))
        return embedding

    def own_parameters(self) -> list[torch.nn.Parameter]:
        """Those of the first stages and of the readers."""
        later = ("tower.layer3", "tower.layer4", "tower.attnpool")
        return [p for name, p in self.named_parameters() if not name.startswith(later)]

    def readers(self) -> list[torch.nn.Parameter]:
        """Those of the readers alone."""
        return [*self.shape.parameters(), *self.colour.parameters()]

    def loss(self, seen: torch.Tensor, pictures: Pictures) -> torch.Tensor:
        """Mean cross-entropy over all cells, in nats, of shapes plus colours; a scalar.

        Args:
            seen: What `stages` saw.
            pictures: With what they show.
        """
        return functional.cross_entropy(
            self.shape(seen).flatten(2), pictures.shapes
        ) + functional.cross_entropy(self.colour(seen).flatten(2), pictures.colours)


class Reading(torch.nn.Module):
    """Reads what stands at each side, and which combinations there are, off an embedding.

    Args:
        dimension: Of the embeddings.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.shape = torch.nn.Linear(dimension, 4 * len(SHAPES))
        self.colour = torch.nn.Linear(dimension, 4 * len(COLOURS))
        self.named = torch.nn.Linear(dimension, len(SHAPES) * len(COLOURS))

    def loss(self, embeddings: torch.Tensor, content: Content) -> torch.Tensor:
        """Cross-entropies of the sides' shapes and colours and of the combinations; a scalar.

        Args:
            embeddings: Unit vectors, float32 of shape (n, dimension).
            content: What there is to read.
        """
        sharp = _SHARPNESS * embeddings
        shapes = self.shape(sharp).view(-1, len(SHAPES))
        colours = self.colour(sharp).view(-1, len(COLOURS))
        named = functional.binary_cross_entropy_with_logits(self.named(sharp), content.named)
        return (
            functional.cross_entropy(shapes, content.sides[..., 0].flatten(), ignore_index=UNCLEAR)
            + functional.cross_entropy(
                colours, content.sides[..., 1].flatten(), ignore_index=UNCLEAR
            )
            + _NAMED_WEIGHT * named
        )

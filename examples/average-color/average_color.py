"""A model of one's own: is the image, on average, of the colour that the text names?

It learns nothing and needs NumPy only, so that what is left is what a model for serve-app must do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serve_app.errors import ModelFailedError, ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import (
    Capabilities,
    DualEncoder,
    Embeddings,
    Pixels,
    TextEmbeddings,
)

COLORS = {
    "black": (0, 0, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "green": (0, 255, 0),
    "magenta": (255, 0, 255),
    "red": (255, 0, 0),
    "white": (255, 255, 255),
    "yellow": (255, 255, 0),
}
OPTIONS = ("words",)


class AverageColor(DualEncoder):
    """Compares the mean colour of an image with that of the colour words in a text.

    `options.words` adds words: a mapping of word to red, green and blue, 0-255 each.
    """

    _words: dict[str, NDArray[np.float32]] | None = None

    def load(self) -> None:
        """Takes the words together. A model with weights reads them here.

        Raises:
            ModelLoadError: An option is at fault.
        """
        unknown = sorted(set(self.spec.options) - set(OPTIONS))
        if unknown:
            raise ModelLoadError(f"unknown options {', '.join(unknown)}; known: {OPTIONS}")
        own = self.spec.options.get("words", {})
        try:
            self._words = {word: _centred(color) for word, color in {**COLORS, **own}.items()}
        except (TypeError, ValueError) as error:
            raise ModelLoadError(
                f"options.words: a word's colour is three numbers: {error}"
            ) from error

    def unload(self) -> None:
        """Forgets them; is called once more than `load` now and then."""
        self._words = None

    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """One row per image: its mean colour."""
        self._loaded()
        return _rows([_centred(image.reshape(-1, 3).mean(axis=0)) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """One row per text: the mean of its colour words; grey where it has none."""
        words = self._loaded()
        rows = []
        for text in texts:
            found = [words[word] for word in text.lower().split() if word in words]
            rows.append(np.mean(found, axis=0) if found else np.zeros(3, dtype=np.float32))
        return TextEmbeddings(_rows(rows), self.count_tokens(texts))

    @property
    def logit_scale(self) -> float:
        """A model that was trained has one of its own."""
        return 1.0

    @property
    def logit_bias(self) -> float:
        """0: it was not trained with a sigmoid loss."""
        return 0.0

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; a text may have any length, so there is no context."""
        self._loaded()
        return Capabilities(
            metrics=("cosine", "logit"),
            default_metrics=("cosine",),
            primary=self.spec.primary or "cosine",
            embeds=True,
            max_batch=self.spec.performance.max_batch or 64,
            embedding_dim=4,
        )

    @property
    def preprocess(self) -> ImagePreprocess:
        """Any small square does for a mean; the service fits images to it."""
        return ImagePreprocess((32, 32), resize_mode="squash").merge(self.spec.preprocessing)

    @property
    def parameters(self) -> int:
        """It has none."""
        return 0

    @property
    def bytes(self) -> int:
        """What it takes of the replica's byte budget."""
        return 1000

    def _loaded(self) -> dict[str, NDArray[np.float32]]:
        if self._words is None:
            raise ModelFailedError("The model average_color is not loaded.")
        return self._words


def _centred(color: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float32]:
    red, green, blue = (float(part) / 127.5 - 1 for part in color)
    return np.array([red, green, blue], dtype=np.float32)


def _rows(colors: Sequence[NDArray[np.float32]]) -> Embeddings:
    """Unit-length rows; a fourth number keeps grey from being no direction at all."""
    rows = np.zeros((len(colors), 4), dtype=np.float32)
    rows[:, 3] = 0.5
    if colors:
        rows[:, :3] = np.stack(colors)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows

"""Small models for tests of this package and of others': deterministic, NumPy only, no torch.

A spec names them by import string (`backend: serve_app.testing:FakeDualEncoder`), so they also work
in the processes of a cluster. They are true models in what matters to the engine, and fail on
demand; their scores mean little: colour words are near images of that colour.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from serve_app.config.spec import ModelSpec, Strict
from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import (
    Capabilities,
    DualEncoder,
    Embeddings,
    Pixels,
    Placement,
    Scores,
    SimilarityModel,
    TextEmbeddings,
)
from serve_app.scoring.metrics import ScoreInputs

DIMENSION = 16
_COLORS = {
    "red": (1.0, -1.0, -1.0),
    "green": (-1.0, 1.0, -1.0),
    "blue": (-1.0, -1.0, 1.0),
    "yellow": (1.0, 1.0, -1.0),
    "white": (1.0, 1.0, 1.0),
    "black": (-1.0, -1.0, -1.0),
}


class FakeOptions(Strict):
    """What a fake does, in its spec's `options`.

    Attributes:
        size: Height and width of its images.
        context_length: Words (plus two) it reads of a text.
        bytes: Memory it claims to take.
        delay_ms: Each computation takes so long.
        fail_load: `load` raises, with this message if it is one.
        hang_load_s: `load` takes so long.
        out_of_memory: `load` raises `MemoryError`.
        kill_process: `load` kills its process, as the kernel does for want of memory.
        drift: Is added to every cosine, so that scores are not those of other fakes.
        version: Does nothing; each number is another revision.
        label: What the journal calls the model; else its version.
        journal: A file to which loads, unloads and computations are written, a JSON line each, so
            that a test can see what happened in other processes.
        fail_text: Raises when a batch has this text.
        nan_text: This text's numbers are NaN.
        fail_image_pixel: Raises when a batch has an image whose first pixel is so red.
    """

    size: int = Field(default=8, ge=1)
    context_length: int = Field(default=16, ge=3)
    bytes: int = Field(default=1000, ge=0)
    delay_ms: float = Field(default=0, ge=0)
    fail_load: str | bool = False
    hang_load_s: float = Field(default=0, ge=0)
    out_of_memory: bool = False
    kill_process: bool = False
    drift: float = 0
    version: int = 0
    label: str | None = None
    journal: str | None = None
    fail_text: str | None = None
    nan_text: str | None = None
    fail_image_pixel: int | None = None


class FakeModel(SimilarityModel):
    """What the fakes have in common.

    Attributes:
        image_batches: Images of each call, in order; pairs for `FakePairScorer`.
        text_batches: Texts of each call, in order.
        loads: How often it was loaded.
        unloads: How often it was unloaded.
        entered: Is set whenever a computation begins.
        gate: While it is clear, computations wait for it.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        try:
            self.options = FakeOptions.model_validate(spec.options)
        except ValidationError as error:
            raise ModelLoadError(f"options of the fake model: {error}") from error
        self.image_batches: list[int] = []
        self.text_batches: list[tuple[str, ...]] = []
        self.loads = 0
        self.unloads = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> None:
        """Loads nothing; slowly or not at all, as the options say."""
        self._note("load")
        time.sleep(self.options.hang_load_s)
        if self.options.kill_process:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.out_of_memory:
            raise MemoryError("as the options say")
        if self.options.fail_load:
            raise ModelLoadError(str(self.options.fail_load))
        self.loads += 1
        self._note("loaded")

    def unload(self) -> None:
        """Counts."""
        self.unloads += 1
        self._note("unload")

    @property
    def capabilities(self) -> Capabilities:
        """Those of a small CLIP."""
        return Capabilities(
            metrics=("cosine", "logit", "probability", "clipscore"),
            default_metrics=("cosine", "logit"),
            primary=self.spec.primary or "cosine",
            embeds=True,
            max_batch=self.spec.performance.max_batch or 8,
            context_length=self.options.context_length,
            embedding_dim=DIMENSION,
        )

    @property
    def preprocess(self) -> ImagePreprocess:
        """Squashes to `size`."""
        return ImagePreprocess((self.options.size, self.options.size), resize_mode="squash")

    @property
    def parameters(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """As the options say."""
        return self.options.bytes

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Words, plus two."""
        return tuple(len(text.split()) + 2 for text in texts)

    def _note(self, event: str) -> None:
        """Writes a line into the journal; lines of several processes do not mix."""
        if self.options.journal is None:
            return
        name = self.options.version if self.options.label is None else self.options.label
        line = {"event": event, "model": name, "pid": os.getpid()}
        with open(self.options.journal, "a", encoding="utf-8") as journal:  # noqa: PTH123
            journal.write(json.dumps(line | {"at": time.time()}) + "\n")

    def _compute(self, images: Sequence[Pixels], texts: Sequence[str]) -> None:
        """What a computation does besides computing."""
        self._note("begin")
        self.entered.set()
        self.gate.wait()
        time.sleep(self.options.delay_ms / 1000)
        self._note("end")
        if self.options.fail_text is not None and self.options.fail_text in texts:
            raise RuntimeError(f"the text {self.options.fail_text!r} is poison")
        pixel = self.options.fail_image_pixel
        if pixel is not None and any(int(image[0, 0, 0]) == pixel for image in images):
            raise RuntimeError("an image is poison")

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        if text == self.options.nan_text:
            return np.full(DIMENSION, np.nan, dtype=np.float32)
        read = text.lower().split()[: self.options.context_length - 2]
        vector = np.zeros(DIMENSION)
        for word in read:
            if word in _COLORS:
                vector[:3] += _COLORS[word]
            vector[3:] += 0.1 * _hashed(word.encode())
        return _unit(vector)


class FakeDualEncoder(FakeModel, DualEncoder):
    """A dual encoder: the mean colour, and a little of a hash of the pixels."""

    logit_scale = 10.0
    logit_bias = -1.0

    def score_inputs(self, cosine: float) -> ScoreInputs:
        """Drifts, as the options say."""
        return super().score_inputs(cosine + self.options.drift)

    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """See `DualEncoder`."""
        self.image_batches.append(len(images))
        self._compute(images, ())
        return _rows([_embed_image(image) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `DualEncoder`."""
        self.text_batches.append(tuple(texts))
        self._compute((), texts)
        return TextEmbeddings(
            _rows([self._embed_text(text) for text in texts]), self.count_tokens(texts)
        )


class FakePairScorer(FakeModel):
    """A model that scores pairs only; its one metric is `match`, -1 to 1."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of a small pair scorer."""
        return Capabilities(
            metrics=("match",),
            default_metrics=("match",),
            primary="match",
            embeds=False,
            max_batch=self.spec.performance.max_batch or 8,
            context_length=self.options.context_length,
        )

    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        """See `SimilarityModel`."""
        self.image_batches.append(len(pairs))
        self.text_batches.append(tuple(text for _, text in pairs))
        self._compute([image for image, _ in pairs], [text for _, text in pairs])
        return [self._score(image, text) for image, text in pairs]

    def _score(self, image: Pixels, text: str) -> Mapping[str, float]:
        cosine = float(np.dot(_embed_image(image), self._embed_text(text)))
        return {"match": cosine + self.options.drift}


def fake_spec(backend: str = "FakeDualEncoder", **changes: Any) -> ModelSpec:
    """A spec of a fake; `changes` are its fields, and `options` those of `FakeOptions`."""
    return ModelSpec.model_validate({"backend": f"serve_app.testing:{backend}", **changes})


def _embed_image(image: Pixels) -> NDArray[np.float32]:
    vector = np.zeros(DIMENSION)
    vector[:3] = image.reshape(-1, 3).mean(axis=0) / 127.5 - 1.0
    vector[3:] = 0.1 * _hashed(image.tobytes())
    return _unit(vector)


def _rows(vectors: list[NDArray[np.float32]]) -> Embeddings:
    return np.stack(vectors) if vectors else np.zeros((0, DIMENSION), dtype=np.float32)


def _hashed(content: bytes) -> NDArray[np.float64]:
    digest = hashlib.blake2b(content, digest_size=DIMENSION - 3).digest()
    return np.frombuffer(digest, dtype=np.uint8) / 127.5 - 1.0


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)

"""An endpoint of embeddings in OpenAI's form, as a dual encoder: they are compared here."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from serve_app.errors import ItemError, ModelFailedError, ModelLoadError, ModelUnavailableError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Capabilities, DualEncoder, Embeddings, Pixels, TextEmbeddings
from serve_app.models.remote import (
    PROBE_TEXT,
    RemoteModel,
    data_uri,
    item_error,
    options_for,
)
from serve_app.models.remote_connection import RemoteConnection
from serve_app.models.remote_spec import EmbeddingsOptions


class RemoteEmbeddingsModel(RemoteModel, DualEncoder):
    """An endpoint of embeddings, as a dual encoder.

    Args:
        spec: The declared configuration.
        placement: Not used: device and precision are the remote's.
    """

    _dimension = 0

    def load(self) -> None:
        """Embeds a text and an image, to see whether and how it does.

        Raises:
            ModelLoadError: It is not there, or its embeddings cannot be compared.
        """
        self.unload()
        self._options = options_for(self.spec, EmbeddingsOptions)
        self._connection = RemoteConnection(self._options)
        try:
            height, width = self.preprocess.size
            grey = np.full((height, width, 3), 127, dtype=np.uint8)
            text, _ = self._embed([PROBE_TEXT])
            image, _ = self._embed([{"image": data_uri(grey)}])
            if text.shape != image.shape:
                raise ModelLoadError(
                    f"{self._options.url} embeds texts in {text.shape[1]} and images in "
                    f"{image.shape[1]} dimensions, which cannot be compared."
                )
            self._dimension = text.shape[1]
        except (ModelUnavailableError, ModelFailedError, ItemError) as error:
            self.unload()
            raise ModelLoadError(f"The remote model cannot be used: {error.detail}") from error
        except BaseException:
            self.unload()
            raise

    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """See `DualEncoder`."""
        rows = [
            self._embed([{"image": data_uri(i)} for i in part])[0] for part in self._parts(images)
        ]
        return self._joined(rows)

    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """See `DualEncoder`; tokens are 0 where the remote does not count them."""
        found = [self._embed(list(part)) for part in self._parts(texts)]
        tokens = tuple(count for _, counts in found for count in counts)
        return TextEmbeddings(self._joined([rows for rows, _ in found]), tokens)

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """As the remote counts; it is asked."""
        return self.encode_texts(texts).tokens if texts else ()

    @property
    def logit_scale(self) -> float:
        """As declared."""
        return self._options.logit_scale

    @property
    def logit_bias(self) -> float:
        """As declared; 0 where nothing is."""
        return self._options.logit_bias or 0.0

    @property
    def capabilities(self) -> Capabilities:
        """Those of a dual encoder."""
        _ = self.remote
        sigmoid = self._options.logit_bias is not None
        usual = ("cosine", "logit", "probability") if sigmoid else ("cosine", "logit")
        return Capabilities(
            metrics=(*usual, "clipscore"),
            default_metrics=usual,
            primary=self.spec.primary or ("probability" if sigmoid else "cosine"),
            embeds=True,
            max_batch=self.max_batch,
            context_length=self._options.context_length,
            embedding_dim=self._dimension,
        )

    @property
    def preprocess(self) -> ImagePreprocess:
        """Such an endpoint tells nothing of it: 224 pixels as CLIP's, or what the spec says."""
        return ImagePreprocess((224, 224)).merge(self.spec.preprocessing)

    @property
    def details(self) -> Mapping[str, str]:
        """Where it is."""
        return {"source": self._options.url, "remote_model": self._options.model or ""}

    def _parts(self, items: Sequence[Any]) -> Iterator[Sequence[Any]]:
        for start in range(0, len(items), self.max_batch):
            yield items[start : start + self.max_batch]

    def _joined(self, rows: list[Embeddings]) -> Embeddings:
        _ = self.remote
        if not rows:
            return np.zeros((0, self._dimension), dtype=np.float32)
        return np.concatenate(rows)

    def _embed(self, items: list[Any]) -> tuple[Embeddings, tuple[int, ...]]:
        body: dict[str, Any] = {"input": items, "encoding_format": "base64"}
        if self._options.model is not None:
            body["model"] = self._options.model
        answer = self.remote.post("/embeddings", body)
        try:
            data = sorted(answer["data"], key=lambda item: int(item["index"]))
            if [item["index"] for item in data] != list(range(len(items))):
                raise ModelFailedError(
                    f"{self._options.url} gave {len(data)} embeddings for {len(items)} items."
                )
            for item in data:
                fault = item.get("error")
                if fault is not None and len(items) == 1:
                    raise item_error(fault)
                if fault is not None:
                    raise ModelFailedError(f"one item failed there ({fault['code']})")
            rows = np.stack([_vector(item["embedding"]) for item in data])
            tokens = tuple(int(item.get("tokens") or 0) for item in data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFailedError(
                f"{self._options.url} does not answer in OpenAI's form ({error})."
            ) from error
        if self._dimension and rows.shape[1] != self._dimension:
            raise ModelFailedError(
                f"{self._options.url} gave {rows.shape[1]} dimensions, and {self._dimension} when "
                "it was loaded: it is another model by now."
            )
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(rows).all() or not norms.all():
            raise ModelFailedError(f"{self._options.url} gave embeddings that are no direction.")
        return (rows / norms).astype(np.float32), tokens


def _vector(embedding: Any) -> Embeddings:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")
    vector = np.array([float(number) for number in embedding], dtype=np.float32)
    if not len(vector) or not math.isfinite(float(vector.sum())):
        raise ValueError("an embedding is empty or not finite")
    return vector

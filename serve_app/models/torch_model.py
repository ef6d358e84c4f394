"""What all models in torch share: loading with errors that say what to do, unloading, facts.

Knows neither embeddings nor pairs; `torch_dual` and `torch_pairs` do.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

import torch

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelFailedError, ModelLoadError, ModelTooLargeError, ServeAppError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Capabilities, Placement, SimilarityModel
from serve_app.models.torch_runtime import is_out_of_memory, release_memory, set_threads

DEFAULT_MAX_BATCH = {"cpu": 32, "cuda": 256}
"""By device, where a spec does not say."""


class Loaded(Protocol):
    """What every loaded model tells of itself; see `SimilarityModel`."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def preprocess(self) -> ImagePreprocess:
        """How images must be fitted to it."""

    @property
    def parameters(self) -> int:
        """Number of parameters that take part."""

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers."""

    @property
    def details(self) -> Mapping[str, str]:
        """Further facts."""


StateT = TypeVar("StateT", bound=Loaded)


class TorchModel(SimilarityModel, Generic[StateT]):
    """A model in torch. Its state is set at once, so no half of it can be seen.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        self._state: StateT | None = None

    @abstractmethod
    def _load(self) -> StateT:
        """Loads everything; raises `ModelLoadError`, or anything else, when it cannot."""

    def load(self) -> None:
        """Loads weights onto the device.

        Raises:
            DeviceUnavailableError: There is no such device.
            ModelTooLargeError: The device's memory is too small.
            MissingExtraError: A package is missing.
            ModelLoadError: Architecture, weights, tokenizer or an option are at fault.
        """
        self.unload()
        set_threads(self.placement.threads)
        try:
            with torch.no_grad():
                self._state = self._load()
        except ServeAppError:
            raise
        except Exception as error:
            kind = ModelTooLargeError if is_out_of_memory(error) else ModelLoadError
            named = " ".join(filter(None, (self.spec.architecture, f"({self.spec.pretrained})")))
            raise kind(f"Loading {named} failed: {type(error).__name__}: {error}") from error
        finally:
            # Also after success: building and casting leave a third of the weights' size behind.
            release_memory()

    def unload(self) -> None:
        """Frees the weights."""
        if self._state is not None:
            self._state = None
            release_memory()

    @property
    def max_batch(self) -> int:
        """Most items in one batch: as the spec says, else as the device can."""
        return self.spec.performance.max_batch or DEFAULT_MAX_BATCH[self.placement.device]

    @property
    def _loaded(self) -> StateT:
        if self._state is None:
            named = self.spec.pretrained or self.spec.architecture
            raise ModelFailedError(f"The model {named} is not loaded.")
        return self._state

    @property
    def capabilities(self) -> Capabilities:
        """What the loaded model can do."""
        return self._loaded.capabilities

    @property
    def preprocess(self) -> ImagePreprocess:
        """How images must be fitted to the model."""
        return self._loaded.preprocess

    @property
    def parameters(self) -> int:
        """Number of parameters that take part in similarity."""
        return self._loaded.parameters

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers, in the precision used."""
        return self._loaded.bytes

    @property
    def details(self) -> Mapping[str, str]:
        """Source and SHA-256 of the weights, sizes and counts, as strings."""
        return self._loaded.details

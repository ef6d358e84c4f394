"""The `open_clip` backend: any OpenCLIP architecture with any weights, as a dual encoder.

Puts the parts together (architecture, weights, towers, tokenizer) and keeps the contract of
`DualEncoder`; knows no batching across requests, no pool and no HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelFailedError, ModelLoadError, ModelTooLargeError, ServeAppError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import (
    Capabilities,
    DualEncoder,
    Embeddings,
    Pixels,
    Placement,
    TextEmbeddings,
)
from serve_app.models.open_clip_architecture import image_preprocess, resolve_architecture
from serve_app.models.open_clip_build import build_model
from serve_app.models.open_clip_tokens import TextTokenizer, make_tokenizer
from serve_app.models.open_clip_towers import Tower, image_tower, text_tower
from serve_app.models.open_clip_weights import locate_weights, verify_sha256
from serve_app.models.torch_runtime import (
    DTYPES,
    computing,
    is_out_of_memory,
    memory_bytes,
    parameter_count,
    release_memory,
    resolve_device,
    run_chunked,
    set_threads,
)

DEFAULT_MAX_BATCH = {"cpu": 32, "cuda": 256}
OPTIONS = ("quick_gelu",)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Everything that a loaded model holds; set at once, so that no half of it can be seen."""

    model: torch.nn.Module
    device: torch.device
    tokenizer: TextTokenizer
    images: Tower
    texts: Tower
    mean: torch.Tensor
    std: torch.Tensor
    dimension: int
    logit_scale: float
    logit_bias: float
    capabilities: Capabilities
    preprocess: ImagePreprocess
    parameters: int
    bytes: int
    details: Mapping[str, str]


class OpenClipModel(DualEncoder):
    """An OpenCLIP model.

    `architecture` is a built-in name of open_clip, or a path to an architecture's JSON file or a
    folder with one. `pretrained` is a tag of open_clip, a path to a checkpoint (`.safetensors`,
    `.pt`, `.pth`, `.bin`) or a folder with one, or `random`.

    `options.quick_gelu: true` computes OpenAI's approximate GELU. Pretrained tags that were trained
    with it get it by themselves, also under the plain architecture name (open_clip warns, and
    gives wrong scores); a local checkpoint does not say, so for those name the `-quickgelu`
    architecture or set the option.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        self._state: _Loaded | None = None

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
            raise kind(
                f"Loading {self.spec.architecture} ({self.spec.pretrained}) failed: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            # Also after success: building and casting leave a third of the weights' size behind.
            release_memory()

    def _load(self) -> _Loaded:
        spec, placement = self.spec, self.placement
        device = resolve_device(placement)
        quick_gelu = _quick_gelu_option(spec)
        name = spec.architecture or spec.pretrained
        if name is None:
            raise ModelLoadError("The spec names neither `architecture` nor `pretrained`.")
        architecture = resolve_architecture(name)
        weights = locate_weights(spec, architecture)
        sha256 = verify_sha256(weights.path, spec.sha256) if weights.path else ""
        if weights.quick_gelu and not architecture.model.get("quick_gelu", False):
            logger.info("%s: %s was trained with quick GELU, used here", name, weights.source)
        tokenizer = make_tokenizer(architecture.text)
        model: Any = build_model(
            architecture,
            weights,
            device,
            placement.precision,
            seed=spec.seed,
            quick_gelu=quick_gelu or weights.quick_gelu,
        )
        own = image_preprocess(
            weights.preprocess,
            architecture.preprocess,
            {"size": getattr(model.visual, "image_size", None)},
        )
        preprocess = own.merge(spec.preprocessing)
        if preprocess.size != own.size:
            raise ModelLoadError(
                f"`preprocessing.size` {preprocess.size} is not what the architecture takes "
                f"({own.size}); name an architecture of that image size."
            )
        sigmoid = getattr(model, "logit_bias", None) is not None
        dimension = int(architecture.model["embed_dim"])
        parameters = parameter_count(model)
        image_parameters = parameter_count(model.visual)
        scale = float(model.logit_scale.float().exp())
        return _Loaded(
            model=model,
            device=device,
            tokenizer=tokenizer,
            images=image_tower(model),
            texts=text_tower(model, device),
            mean=torch.tensor(preprocess.mean, dtype=torch.float32, device=device),
            std=torch.tensor(preprocess.std, dtype=torch.float32, device=device),
            dimension=dimension,
            logit_scale=scale,
            logit_bias=float(model.logit_bias.float()) if sigmoid else 0.0,
            capabilities=self._capabilities(sigmoid, tokenizer.context_length, dimension),
            preprocess=preprocess,
            parameters=parameters,
            bytes=memory_bytes(model),
            details={
                "source": weights.source,
                "weights_sha256": sha256,
                "image_size": "x".join(map(str, preprocess.size)),
                "patch_size": str(_patch_size(architecture.model["vision_cfg"])),
                "context_length": str(tokenizer.context_length),
                "logit_scale": f"{scale:.6g}",
                "image_parameters": str(image_parameters),
                "text_parameters": str(parameters - image_parameters),
                "quick_gelu": str(
                    quick_gelu
                    or weights.quick_gelu
                    or bool(architecture.model.get("quick_gelu", False))
                ).lower(),
            },
        )

    def _capabilities(self, sigmoid: bool, context: int, dimension: int) -> Capabilities:
        usual = ("cosine", "logit", "probability") if sigmoid else ("cosine", "logit")
        metrics = (*usual, "clipscore")
        primary = self.spec.primary or ("probability" if sigmoid else "cosine")
        if primary not in metrics:
            raise ModelLoadError(
                f"`primary: {primary}` is not a metric of this model; it has {', '.join(metrics)}."
            )
        return Capabilities(
            metrics=metrics,
            default_metrics=usual,
            primary=primary,
            embeds=True,
            max_batch=self.spec.performance.max_batch or DEFAULT_MAX_BATCH[self.placement.device],
            context_length=context,
            embedding_dim=dimension,
        )

    def encode_images(self, images: Sequence[Pixels]) -> Embeddings:
        """Embeds images; see `DualEncoder.encode_images`.

        Raises:
            ModelFailedError: An image has not the size that `preprocess` gives, or memory is too
                small even for one.
        """
        state = self._loaded
        expected = (*state.preprocess.size, 3)
        for image in images:
            if image.shape != expected or image.dtype != np.uint8:
                raise ModelFailedError(
                    f"An image of shape {image.shape} and type {image.dtype} came where the model "
                    f"takes {expected} and uint8; fit it with the model's `preprocess`."
                )
        return self._embed(lambda batch: state.images(self._pixels(batch)), images)

    def encode_texts(self, texts: Sequence[str]) -> TextEmbeddings:
        """Embeds texts; see `DualEncoder.encode_texts`."""
        state = self._loaded
        ids, tokens = state.tokenizer.ids(texts)
        rows = self._embed(lambda batch: state.texts(ids[list(batch)]), range(len(texts)))
        return TextEmbeddings(rows, tokens)

    def _embed(self, compute: Callable[[Any], torch.Tensor], items: Sequence[Any]) -> Embeddings:
        """Features of items to unit rows; the norm is taken in fp32 whatever the precision."""
        state = self._loaded
        if not len(items):
            return np.zeros((0, state.dimension), dtype=np.float32)
        with computing(self.placement):
            rows = run_chunked(
                lambda batch: F.normalize(compute(batch).float(), dim=-1),
                items,
                state.capabilities.max_batch,
            )
            embeddings: Embeddings = torch.cat(rows).cpu().numpy()
        return embeddings

    def _pixels(self, images: Sequence[Pixels]) -> torch.Tensor:
        """Normalises as torchvision's ToTensor and Normalize do, in fp32, then casts."""
        state = self._loaded
        pixels = torch.from_numpy(np.stack(images)).to(state.device).float()
        pixels = pixels.div_(255).sub_(state.mean).div_(state.std)
        return pixels.permute(0, 3, 1, 2).to(DTYPES[self.placement.precision])

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of each whole text, special tokens counted."""
        return self._loaded.tokenizer.count(texts)

    def unload(self) -> None:
        """Frees the weights."""
        if self._state is not None:
            self._state = None
            release_memory()

    @property
    def _loaded(self) -> _Loaded:
        if self._state is None:
            raise ModelFailedError(f"The model {self.spec.architecture} is not loaded.")
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

    @property
    def logit_scale(self) -> float:
        """The model's own factor, exponential taken."""
        return self._loaded.logit_scale

    @property
    def logit_bias(self) -> float:
        """The model's own bias; 0 where it has none."""
        return self._loaded.logit_bias


def _quick_gelu_option(spec: ModelSpec) -> bool:
    unknown = sorted(set(spec.options) - set(OPTIONS))
    value = spec.options.get("quick_gelu", False)
    if unknown or not isinstance(value, bool):
        raise ModelLoadError(
            f"`options` of the open_clip backend are {', '.join(OPTIONS)} (true or false)"
            + (f"; unknown: {', '.join(unknown)}." if unknown else ".")
        )
    return value


def _patch_size(vision: Mapping[str, Any]) -> str:
    if isinstance(vision.get("layers"), list) or "timm_model_name" in vision:
        return ""
    return str(vision.get("patch_size", 16))

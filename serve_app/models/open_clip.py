"""The `open_clip` backend: any OpenCLIP architecture with any weights, as a dual encoder.

Puts the parts together: architecture, weights, towers, tokenizer. What it shares with other
backends is in `torch_dual`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.open_clip_architecture import image_preprocess, resolve_architecture
from serve_app.models.open_clip_build import build_model
from serve_app.models.open_clip_tokens import TextTokenizer, make_tokenizer
from serve_app.models.open_clip_towers import Tower, image_tower, text_tower
from serve_app.models.open_clip_weights import locate_weights
from serve_app.models.torch_dual import LoadedDual, TorchDualEncoder
from serve_app.models.torch_pixels import PixelNormaliser
from serve_app.models.torch_runtime import DTYPES, memory_bytes, parameter_count, resolve_device
from serve_app.weights.checksums import verify_sha256

OPTIONS = ("quick_gelu",)

logger = logging.getLogger(__name__)


class _OpenClipTexts:
    """A `TextTower`: token ids of the whole batch, and the tower that reads rows of them."""

    def __init__(self, tokenizer: TextTokenizer, tower: Tower) -> None:
        self.context_length = tokenizer.context_length
        self._tokenizer = tokenizer
        self._tower = tower

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, tuple[int, ...]]:
        """See `TextTower`."""
        return self._tokenizer.ids(texts)

    def features(self, tokens: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See `TextTower`."""
        return self._tower(tokens[list(rows)])

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """See `TextTower`."""
        return self._tokenizer.count(texts)


class OpenClipModel(TorchDualEncoder):
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

    def _load(self) -> LoadedDual:
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
        pixels = PixelNormaliser(preprocess, device, DTYPES[placement.precision])
        tower = image_tower(model)
        return LoadedDual(
            model=model,
            device=device,
            check_images=pixels.check,
            images=lambda images: tower(pixels.batch(images)),
            texts=_OpenClipTexts(tokenizer, text_tower(model, device)),
            dimension=dimension,
            logit_scale=scale,
            logit_bias=float(model.logit_bias.float()) if sigmoid else 0.0,
            capabilities=self.dual_capabilities(
                sigmoid=sigmoid, context=tokenizer.context_length, dimension=dimension
            ),
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

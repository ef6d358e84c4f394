"""The `transformers` backend: any dual encoder that `AutoModel` and `AutoProcessor` load.

Family-neutral: what is particular about a family is read off its configuration and tokenizer, by
the rules of `transformers_text` and `transformers_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Pixels
from serve_app.models.torch_dual import LoadedDual, TorchDualEncoder
from serve_app.models.torch_pixels import PatchNormaliser, PixelNormaliser
from serve_app.models.torch_runtime import DTYPES, memory_bytes, parameter_count, resolve_device
from serve_app.models.transformers_images import image_preprocess
from serve_app.models.transformers_loading import Checkpoint, transformers
from serve_app.models.transformers_text import TransformersTexts, pooled


class TransformersModel(TorchDualEncoder):
    """A dual encoder of the transformers library.

    `pretrained` is a folder that `save_pretrained` wrote, or an id of the hub; `options.revision`
    is a branch, tag or commit of the hub. Code that a checkpoint brings along is never run.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def _load(self) -> LoadedDual:
        spec, placement = self.spec, self.placement
        device = resolve_device(placement)
        checkpoint = self._checkpoint()
        sha256 = checkpoint.verified()
        with checkpoint.told():
            model = self._model(checkpoint)
            # Before the cast: a logarithm of 4.6 is off by 0.2 % in fp16, and by 1.5 % in bf16.
            scale, bias = _scale_and_bias(model)
            model = model.to(device=device, dtype=DTYPES[placement.precision]).eval()
            tokenizer, processor = checkpoint.tokenizer(), checkpoint.image_processor()
        own = image_preprocess(processor, spec.options.get("max_patches"))
        preprocess = own.merge(spec.preprocessing)
        if preprocess.size != own.size or preprocess.fixed != own.fixed:
            raise ModelLoadError(
                f"`preprocessing` makes images of {preprocess.size} ({preprocess.resize_mode}); "
                f"the checkpoint takes {own.size} ({own.resize_mode})."
            )
        texts = TransformersTexts(model, tokenizer, device, reads_padding=bias is not None)
        probe, _ = texts.tokens(["a probe"])
        dimension = int(texts.features(probe, [0]).shape[1])
        parameters, image_parameters = parameter_count(model), _image_parameters(model)
        check_images, images = _image_tower(model, preprocess, DTYPES[placement.precision])
        return LoadedDual(
            model=model,
            device=device,
            check_images=check_images,
            images=images,
            texts=texts,
            dimension=dimension,
            logit_scale=scale,
            logit_bias=bias or 0.0,
            capabilities=self.dual_capabilities(
                sigmoid=bias is not None, context=texts.context_length, dimension=dimension
            ),
            preprocess=preprocess,
            parameters=parameters,
            bytes=memory_bytes(model),
            details={
                "source": str(spec.pretrained),
                "weights_sha256": sha256,
                "model_type": str(model.config.model_type),
                "class": type(model).__name__,
                "image_size": "x".join(map(str, preprocess.size)),
                "context_length": str(texts.context_length),
                "logit_scale": f"{scale:.6g}",
                "image_parameters": str(image_parameters),
                "text_parameters": str(parameters - image_parameters),
            },
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.spec)

    def _model(self, checkpoint: Checkpoint) -> Any:
        model = checkpoint.model(transformers.AutoModel)
        for name in ("get_image_features", "get_text_features"):
            if not hasattr(model, name):
                raise ModelLoadError(
                    f"{type(model).__name__} is no dual encoder: it has no `{name}`."
                )
        return model


def _image_tower(
    model: Any, preprocess: ImagePreprocess, dtype: torch.dtype
) -> tuple[Callable[[Sequence[Pixels]], None], Callable[[Sequence[Pixels]], torch.Tensor]]:
    """The check of images and the tower; see `LoadedDual`."""
    if preprocess.fixed:
        pixels = PixelNormaliser(preprocess, model.device, dtype)
        return pixels.check, lambda images: pooled(
            model.get_image_features(pixel_values=pixels.batch(images))
        )
    cutter = PatchNormaliser(preprocess, model.device, dtype)

    def patched(images: Sequence[Pixels]) -> torch.Tensor:
        found = cutter.patches(images)
        return pooled(
            model.get_image_features(
                pixel_values=found.values,
                pixel_attention_mask=found.mask,
                spatial_shapes=found.shapes,
            )
        )

    return cutter.check, patched


def _image_parameters(model: Any) -> int:
    """Parameters of the image tower; all families call it and its projection alike."""
    named = model.named_parameters()
    return sum(tensor.numel() for name, tensor in named if name.startswith(("vision", "visual")))


def _scale_and_bias(model: Any) -> tuple[float, float | None]:
    """What makes a logit of a cosine: the factor, and the bias of sigmoid-trained models."""
    scale = getattr(model, "logit_scale", None)
    if scale is not None:
        factor = float(scale.detach().float().exp())
    elif getattr(model, "temperature", None) is not None:  # ALIGN divides
        factor = 1.0 / float(model.temperature.detach().float())
    else:
        raise ModelLoadError(f"{type(model).__name__} has neither logit scale nor temperature.")
    bias = getattr(model, "logit_bias", None)
    return factor, None if bias is None else float(bias.detach().float())

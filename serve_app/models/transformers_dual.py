"""The `transformers` backend: any dual encoder that `AutoModel` and `AutoProcessor` load.

Family-neutral: what is particular about a family is read off its configuration and tokenizer, by
the rules of `transformers_text` and `transformers_images`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from serve_app.config.checkpoints import weights_file
from serve_app.errors import MissingExtraError, ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Pixels
from serve_app.models.fingerprint import verify_sha256
from serve_app.models.torch_dual import LoadedDual, TorchDualEncoder
from serve_app.models.torch_pixels import PatchNormaliser, PixelNormaliser
from serve_app.models.torch_runtime import DTYPES, memory_bytes, parameter_count, resolve_device
from serve_app.models.transformers_images import image_preprocess
from serve_app.models.transformers_spec import INSTALL, local_folder
from serve_app.models.transformers_text import TransformersTexts, pooled

try:
    import transformers
except ImportError as error:
    raise MissingExtraError(
        f"The backend `transformers` needs the package of this name ({error}). Run: {INSTALL}"
    ) from error

logger = logging.getLogger(__name__)


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
        if spec.pretrained is None:
            raise ModelLoadError("`pretrained` is missing: a folder, or an id of the hub.")
        device = resolve_device(placement)
        sha256 = self._verified(spec.pretrained)
        with _told(spec.pretrained):
            model = self._model()
            # Before the cast: a logarithm of 4.6 is off by 0.2 % in fp16, and by 1.5 % in bf16.
            scale, bias = _scale_and_bias(model)
            model = model.to(device=device, dtype=DTYPES[placement.precision]).eval()
            given = self._source()
            tokenizer = transformers.AutoTokenizer.from_pretrained(**given)
            processor = transformers.AutoImageProcessor.from_pretrained(**given, backend="pil")
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

    def _source(self) -> dict[str, Any]:
        """Where everything is read from; remote code is never run."""
        folder = local_folder(str(self.spec.pretrained))
        return {
            "pretrained_model_name_or_path": str(folder or self.spec.pretrained),
            "revision": self.spec.options.get("revision") or "main",
            "local_files_only": folder is not None,
            "trust_remote_code": False,
        }

    def _model(self) -> Any:
        """The model in the checkpoint's own precision."""
        model, found = transformers.AutoModel.from_pretrained(
            **self._source(), dtype="auto", output_loading_info=True
        )
        missing = sorted(found["missing_keys"])
        if missing:
            some = ", ".join(missing[:3])
            raise ModelLoadError(
                f"The checkpoint has no weights for {len(missing)} parts of "
                f"{type(model).__name__} ({some}, …): it is of another architecture, or damaged."
            )
        for name in ("get_image_features", "get_text_features"):
            if not hasattr(model, name):
                raise ModelLoadError(
                    f"{type(model).__name__} is no dual encoder: it has no `{name}`."
                )
        return model

    def _verified(self, pretrained: str) -> str:
        """SHA-256 of the weights file; empty where there is not just one, or it is not here."""
        folder = local_folder(pretrained)
        path = weights_file(str(folder)) if folder is not None and folder.is_dir() else None
        if path is None:
            if self.spec.sha256 is not None:
                raise ModelLoadError(
                    f"`sha256` is for one local file of weights, and {pretrained} is not that."
                )
            return ""
        return verify_sha256(path, self.spec.sha256)


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


@contextlib.contextmanager
def _told(pretrained: str) -> Iterator[None]:
    """Errors of the library in words that say what to do."""
    try:
        yield
    except ModelLoadError:
        raise
    except ImportError as error:
        raise MissingExtraError(
            f"{pretrained} needs a package that is not installed ({error}). Run: {INSTALL}"
        ) from error
    except OSError as error:  # the hub's errors, gated repositories among them, are of this type
        first = str(error).strip().splitlines()[0]
        raise ModelLoadError(
            f"{pretrained} cannot be loaded ({first}). Is the folder complete? For an id of the "
            "hub: connect to the network, accept the model's terms and set HF_TOKEN where it is "
            "gated, or bring the cache folder of a machine that has it and point HF_HOME to it."
        ) from error

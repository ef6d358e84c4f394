"""The `torch_clip` backend: checkpoints in OpenAI's format, in plain torch and nothing else.

Needs neither open_clip nor transformers: the network is in `torch_clip_network`, the tokens are in
`byte_pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import ValidationError
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.config.checkpoints import weights_file
from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.byte_pairs import BytePairs
from serve_app.models.state_dicts import StateDict, assign_cast, check_fit, open_state_dict
from serve_app.models.torch_clip_network import KEPT_IN_FULL, Clip, quick_gelu
from serve_app.models.torch_clip_shape import shape_of
from serve_app.models.torch_clip_spec import TorchClipOptions, options_of, vocabulary_file
from serve_app.models.torch_dual import LoadedDual, TorchDualEncoder
from serve_app.models.torch_pixels import PixelNormaliser
from serve_app.models.torch_runtime import (
    DTYPES,
    lay_out_for_cpu,
    memory_bytes,
    parameter_count,
    resolve_device,
)
from serve_app.weights.checksums import verify_sha256

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's archives have among the tensors."""

_STEP = 8
"""Padding to steps: every other length is another shape, for which kernels are made and kept."""


class _Texts:
    """A `TextTower`: token ids as lists, and the tower that reads some of them."""

    def __init__(self, model: Clip, pairs: BytePairs, context: int, device: torch.device) -> None:
        self.context_length = context
        self._model = model
        self._pairs = pairs
        self._device = device

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], tuple[int, ...]]:
        """See `TextTower`."""
        whole = [self._pairs.encode(text) for text in texts]
        most = self.context_length
        cut = [ids if len(ids) <= most else [*ids[: most - 1], self._pairs.end] for ids in whole]
        return cut, tuple(map(len, whole))

    def features(self, tokens: list[list[int]], rows: Sequence[int]) -> torch.Tensor:
        """See `TextTower`."""
        batch = [tokens[row] for row in rows]
        # Where a text ends is known from its tokens; OpenAI looks for the highest id, which is
        # the end's in its own vocabulary only.
        ends = torch.tensor([len(ids) - 1 for ids in batch])
        length = min(-(-max(map(len, batch)) // _STEP) * _STEP, self.context_length)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        for row, known in enumerate(batch):
            ids[row, : len(known)] = torch.tensor(known)
        return self._model.texts(ids.to(self._device), ends.to(self._device))

    def count(self, texts: Sequence[str]) -> tuple[int, ...]:
        """See `TextTower`."""
        return tuple(len(self._pairs.encode(text)) for text in texts)


class TorchClipModel(TorchDualEncoder):
    """A CLIP of OpenAI's format.

    `pretrained` is a checkpoint: a state dict as safetensors or by `torch.save`, or, where
    `options.allow_torchscript` is true, a TorchScript archive. It says the architecture.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def _load(self) -> LoadedDual:
        spec, placement = self.spec, self.placement
        device = resolve_device(placement)
        try:
            options = options_of(spec)
        except ValidationError as error:
            raise ModelLoadError(f"`options` of the torch_clip backend: {error}") from error
        path = weights_file(spec.pretrained or "")
        if path is None:
            raise ModelLoadError(
                f"`pretrained` {spec.pretrained!r} is no file, and no folder with one checkpoint."
            )
        sha256 = verify_sha256(path, spec.sha256)
        with open_state_dict(path, run_torchscript=options.allow_torchscript) as state:
            for name in _NOT_WEIGHTS:
                state.pop(name, None)
            model = _build(state, options, device, DTYPES[placement.precision], str(path))
        shape = model.shape
        pairs = BytePairs(vocabulary_file(options), shape.vocabulary)
        own = ImagePreprocess((shape.image_size, shape.image_size))
        preprocess = own.merge(spec.preprocessing)
        if preprocess.size != own.size:
            raise ModelLoadError(
                f"`preprocessing.size` {preprocess.size} is not what the checkpoint takes "
                f"({own.size})."
            )
        parameters, image_parameters = parameter_count(model), parameter_count(model.visual)
        scale = float(model.logit_scale.float().exp())
        pixels = PixelNormaliser(preprocess, device, DTYPES[placement.precision])
        tower = model.visual
        return LoadedDual(
            model=model,
            device=device,
            check_images=pixels.check,
            images=lambda images: tower(pixels.batch(images)),
            texts=_Texts(model, pairs, shape.context, device),
            dimension=shape.dimension,
            logit_scale=scale,
            logit_bias=0.0,
            capabilities=self.dual_capabilities(
                sigmoid=False, context=shape.context, dimension=shape.dimension
            ),
            preprocess=preprocess,
            parameters=parameters,
            bytes=memory_bytes(model),
            details={
                "source": str(spec.pretrained),
                "weights_sha256": sha256,
                "image_size": "x".join(map(str, preprocess.size)),
                "patch_size": str(shape.patch_size or ""),
                "context_length": str(shape.context),
                "logit_scale": f"{scale:.6g}",
                "image_parameters": str(image_parameters),
                "text_parameters": str(parameters - image_parameters),
                "quick_gelu": str(options.quick_gelu).lower(),
            },
        )


def _build(
    state: StateDict,
    options: TorchClipOptions,
    device: torch.device,
    dtype: torch.dtype,
    what: str,
) -> Clip:
    """The network with its weights, cast and on the device; all of them or none."""
    try:
        shape = shape_of(state)
    except KeyError as error:
        raise ModelLoadError(
            f"{what} is no CLIP in OpenAI's format: it has no tensor {error}. The backends "
            "open_clip and transformers load their own formats."
        ) from error
    activation = quick_gelu if options.quick_gelu else F.gelu
    with torch.device("meta"):
        model = Clip(shape, activation)
    check_fit(model.state_dict(), state, f"the CLIP that its own tensors tell of ({what})")
    full = {"logit_scale"}
    for prefix, module in model.named_modules():
        if isinstance(module, KEPT_IN_FULL):
            full.update(f"{prefix}.{name}" for name in module.state_dict())
    assign_cast(model, state, device, dtype, full)
    model.eval().requires_grad_(False)
    if device.type == "cpu":
        lay_out_for_cpu(model)
    return model

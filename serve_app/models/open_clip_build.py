"""Builds an OpenCLIP model on its device: architecture and weights to a module ready to compute.

Knows no text, no image and no score. Each weight is read, cast and moved once: the module is made
without initial values (whose memory is never touched), then takes the file's tensors instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from open_clip import CLIP, CoCa, CustomTextCLIP
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, get_cast_dtype
from open_clip.transformer import LayerNormFp32
from torch.overrides import TorchFunctionMode

from serve_app.errors import ModelLoadError
from serve_app.models.open_clip_architecture import Architecture
from serve_app.models.open_clip_weights import Weights
from serve_app.models.state_dicts import StateDict, assign_cast, check_fit, open_state_dict
from serve_app.models.torch_runtime import DTYPES, lay_out_for_cpu

UNUSED_PREFIX = "text_decoder."
"""CoCa's caption decoder takes no part in similarity; it is neither loaded nor counted."""


def build_model(
    architecture: Architecture,
    weights: Weights,
    device: torch.device,
    precision: str,
    *,
    seed: int = 0,
    quick_gelu: bool = False,
) -> torch.nn.Module:
    """Builds a model with weights, on a device, in evaluation mode, without gradients.

    In bf16 and fp16 all weights are cast but those of open_clip's `LayerNormFp32` and of batch
    normalisation, whose statistics stay in fp32, and the logit scale and bias.

    Args:
        architecture: What to build.
        weights: What to load, strictly; random weights are drawn with `seed`, and are those of
            open_clip after `torch.manual_seed(seed)`.
        device: Where the model shall be.
        precision: `fp32`, `bf16` or `fp16`.
        seed: Of random weights.
        quick_gelu: Use OpenAI's approximate GELU whatever the architecture says.

    Raises:
        ModelLoadError: The architecture cannot be built, or the weights are not for it.
    """
    config, model_class = _model_config(architecture, quick_gelu)

    def make() -> torch.nn.Module:
        try:
            model: torch.nn.Module = model_class(**config, cast_dtype=get_cast_dtype(precision))
        except (TypeError, ValueError, AssertionError, KeyError) as error:
            raise ModelLoadError(
                f"open_clip cannot build the architecture {architecture.name}: {error}."
            ) from error
        if isinstance(model, CoCa):
            del model.text_decoder
        return model.eval().requires_grad_(False)

    if weights.path is None:
        # Global random state belongs to others; what is drawn here must not show there.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make()
        state = dict(model.state_dict())
        _assign(model, state, device, DTYPES[precision], architecture.name, copy=False)
        return model
    with _WithoutInitialValues():
        model = make()
    with open_state_dict(weights.path) as state:
        _adapt(model, state)
        _assign(model, state, device, DTYPES[precision], f"{architecture.name} ({weights.path})")
    return model


def _model_config(
    architecture: Architecture, quick_gelu: bool
) -> tuple[dict[str, Any], Callable[..., Any]]:
    """Follows `open_clip.create_model` from configuration to class and arguments."""
    config = deepcopy(dict(architecture.model))
    if quick_gelu:
        config["quick_gelu"] = True
    text, vision = config["text_cfg"], config["vision_cfg"]
    # Neither tower fetches weights of its own: a full checkpoint, or nothing, is what loads here.
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom_text = config.pop("custom_text", False) or "hf_model_name" in text
    if not custom_text:
        return config, CLIP
    return config, CoCa if "multimodal_cfg" in config else CustomTextCLIP


class _WithoutInitialValues(TorchFunctionMode):
    """Skips drawing initial values for parameters; all of them are assigned afterwards.

    Better than building on the meta device: buffers that no checkpoint holds (attention masks,
    rotary tables) are computed as usual, and memory that is never written costs nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if func is torch.randn:
            return torch.zeros(*args, **(kwargs or {}))
        in_place = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if in_place and args and isinstance(args[0], torch.nn.Parameter):
            return args[0]
        if func in (torch.nn.init.kaiming_uniform_, torch.nn.init.normal_):
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def _adapt(model: torch.nn.Module, state: StateDict) -> None:
    """Brings older and foreign forms of checkpoints into open_clip's, as `load_checkpoint` does."""
    converted = convert_state_dict(model, dict(state))
    if "positional_embedding" in converted and not hasattr(model, "positional_embedding"):
        converted = convert_to_custom_text_state_dict(converted)
    for name in ("logit_scale", "logit_bias"):  # scalar in some, of one element in others
        own = getattr(model, name, None)
        if own is not None and name in converted and converted[name].numel() == own.numel():
            converted[name] = converted[name].reshape(own.shape)
    if getattr(model, "logit_bias", None) is not None and "logit_scale" in converted:
        converted.setdefault("logit_bias", torch.zeros_like(converted["logit_scale"]))
    # A buffer in checkpoints of older transformers versions.
    converted.pop("text.transformer.embeddings.position_ids", None)
    state.clear()
    state.update(converted)


def _assign(
    model: torch.nn.Module,
    state: StateDict,
    device: torch.device,
    dtype: torch.dtype,
    what: str,
    *,
    copy: bool = True,
) -> None:
    """Puts every tensor, cast and on the device, into the model; all or nothing."""
    if isinstance(model, CoCa):
        for name in [name for name in state if name.startswith(UNUSED_PREFIX)]:
            del state[name]
    check_fit(model.state_dict(), state, what)
    assign_cast(model, state, device, dtype, _kept_in_full(model), copy=copy)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if name in module._non_persistent_buffers_set:
                floating = dtype if buffer.is_floating_point() else buffer.dtype
                module._buffers[name] = buffer.to(device=device, dtype=floating)
    model.requires_grad_(False)
    if device.type == "cpu":
        lay_out_for_cpu(model)


def _kept_in_full(model: torch.nn.Module) -> set[str]:
    names = {"logit_scale", "logit_bias"}
    keep: tuple[type[torch.nn.Module], ...] = (LayerNormFp32, torch.nn.BatchNorm2d)
    if hasattr(getattr(model, "visual", None), "trunk"):
        keep = (LayerNormFp32,)  # as open_clip casts timm's towers
    for prefix, module in model.named_modules():
        if isinstance(module, keep):
            names.update(f"{prefix}.{name}" for name in module.state_dict())
    return names

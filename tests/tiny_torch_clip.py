"""Small CLIPs in OpenAI's format with seeded random weights, written to disk for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

VIT: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    # Heads are as wide as OpenAI's, since a checkpoint does not say.
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
RESNET: dict[str, Any] = {
    **VIT,
    "vision_cfg": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 8},
}


def make_state(config: dict[str, Any] | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict as OpenAI's archives have it: matrices in half precision, odd numbers inside."""
    config = VIT if config is None else config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config, quick_gelu=True)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "logit" not in name:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
            elif parameter.ndim > 1:
                # Wide enough that different inputs differ by far more than rounding.
                parameter.data.mul_(3)
    open_clip.model.convert_weights_to_fp16(model)
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    state["input_resolution"] = torch.tensor(config["vision_cfg"]["image_size"])
    state["context_length"] = torch.tensor(config["text_cfg"]["context_length"])
    state["vocab_size"] = torch.tensor(config["text_cfg"]["vocab_size"])
    return state


def write_state(path: Path, config: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """Writes a state dict, as safetensors or by `torch.save`, as the name ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = make_state(config, seed)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path

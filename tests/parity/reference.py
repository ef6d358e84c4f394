"""What open_clip alone computes: the truth that the service is compared with.

Imports nothing of serve_app, so that a fault there cannot hide itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file


@dataclass(frozen=True)
class Reference:
    """Scores of every image with every text, fp32, shape (images, texts)."""

    cosine: NDArray[np.float32]
    logit: NDArray[np.float32]
    logit_scale: float


def compute_reference(
    architecture: str,
    images: Sequence[Image.Image],
    texts: Sequence[str],
    checkpoint: Path | None = None,
) -> Reference:
    """Scores as open_clip's README does it: transforms, tokenizer, both towers, normalised.

    Args:
        architecture: A built-in name, or `local-dir:FOLDER` with `open_clip_config.json` and
            weights.
        images: Decoded, RGB.
        texts: Texts of any length; open_clip cuts them without a word.
        checkpoint: The weights of a built-in architecture.
    """
    pretrained = None if checkpoint is None else str(checkpoint)
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained)
    tokenizer = open_clip.get_tokenizer(architecture)
    model.eval()
    with torch.no_grad():
        left = model.encode_image(torch.stack([transform(i) for i in images]), normalize=True)
        right = model.encode_text(tokenizer(list(texts)), normalize=True)
        cosine = left @ right.T
        scale = model.logit_scale.exp()
        logit = scale * cosine
        if model.logit_bias is not None:
            logit = logit + model.logit_bias
    return Reference(cosine.numpy(), logit.numpy(), float(scale))


def write_random_checkpoint(architecture: str, path: Path, seed: int = 0) -> Path:
    """Saves open_clip's own random initialisation of a built-in architecture.

    Biases and norms are drawn too: their usual zeros and ones would hide what a tower computes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(architecture)
        randomise(model)
    save_file(model.state_dict(), path)
    return path


def randomise(model: torch.nn.Module) -> None:
    """Gives vectors (biases, norms) values that are not their usual zeros and ones."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and "logit" not in name:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)

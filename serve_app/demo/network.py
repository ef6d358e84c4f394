"""The demo models' architecture, preprocessing and files; knows neither training nor scenes.

Everything is open_clip's own: its model, its image transform, its tokenizer, its configuration
form. A demo model is loaded by plain open_clip code.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from open_clip import image_transform
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

from serve_app.demo import config_path, vocabulary

ImageTransform = Callable[[Image.Image], torch.Tensor]

IMAGE_SIZE: Final = 64
GRID: Final = IMAGE_SIZE // 8
"""Cells along each side of what the image tower's second stage sees."""

PREPROCESS: Final[dict[str, Any]] = {
    "size": IMAGE_SIZE,
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    # The whole drawing must be seen: a centre crop would cut off what stands left and right.
    "resize_mode": "longest",
    "fill_color": 255,
}


def architecture(
    vocab_size: int, image_width: int = 16, text_width: int = 96, text_layers: int = 3
) -> dict[str, Any]:
    """The dual encoder, as an open_clip model configuration.

    The image tower is CLIP's residual network, not a transformer: convolutions know from the
    start that a star is a star wherever it stands, which a transformer this small did not learn
    in the minutes there are. Its attention pooling sees a 2 x 2 grid, enough to tell sides apart.

    Args:
        vocab_size: Entries of the tokenizer.
        image_width: Channels that the image tower's stages are multiples of; a multiple of 2.
        text_width: Width of the text tower, a multiple of 32.
        text_layers: Layers of the text tower.

    Returns:
        A dictionary to be passed to `open_clip.model.CLIP` as keywords.
    """
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "image_size": IMAGE_SIZE,
            "layers": [1, 1, 1, 1],
            "width": image_width,
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": vocabulary.CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_width // 32,
            "layers": text_layers,
            "tokenizer_kwargs": {"bpe_path": vocabulary.MERGES_FILE},
        },
    }


def preprocessing(cfg: dict[str, Any] = PREPROCESS) -> Any:
    """open_clip's image transform: PIL image to `float32` of shape (3, size, size).

    Returns:
        A torchvision `Compose`; its last two steps make a tensor and normalise it.
    """
    return image_transform(
        cfg["size"],
        is_train=False,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        resize_mode=cfg["resize_mode"],
        interpolation=cfg["interpolation"],
        fill_color=cfg["fill_color"],
    )


def save(name: str, model: CLIP, model_cfg: dict[str, Any], folder: Path) -> None:
    """Write weights, configuration and merges, each whole or not at all.

    Args:
        name: `demo` or `demo-lite`; the files are called after it.
        model: The trained model.
        model_cfg: The configuration that it was built from.
        folder: Where to write; it is made if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.write_merges(folder)
    config_file = folder / config_path(name).name
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    # Half the bytes in the repository; cosines move by less than 0.001.
    weights = {
        k: v.detach().half() if v.is_floating_point() else v.detach().clone()
        for k, v in model.state_dict().items()
    }
    # A reader in another process must never meet half a file.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        draft = Path(partial)
        save_file(weights, draft / "weights", metadata={"format": "pt"})
        text = json.dumps(config, indent=2) + "\n"
        (draft / "config").write_text(text, encoding="utf-8")
        (draft / "weights").chmod(0o644)
        (draft / "weights").replace(config_file.with_suffix(".safetensors"))
        (draft / "config").replace(config_file)

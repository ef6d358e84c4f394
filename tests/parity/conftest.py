"""Pictures, texts and checkpoints for parity with open_clip."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip import create_model
from PIL import Image
from safetensors.torch import save_file

from tests.parity.reference import randomise, write_random_checkpoint
from tests.tiny_open_clip import write_tokenizer

TEXTS = (
    "a red circle left of a blue square",
    "A photo of a DOG, that runs &amp; jumps!",
    "x",
    "naïve café 😀 日本",
    "many words of a text that is far longer than any context " * 12,
    "two  cats\n",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images() -> tuple[Image.Image, ...]:
    """Smooth random pictures of different shapes, larger and smaller than the models' input."""
    rng = np.random.default_rng(7)
    return tuple(
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size)
        for size in ((640, 480), (150, 400), (231, 97))
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Random weights of the built-in architecture that the test is parametrised with."""
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_random_checkpoint(request.param, folder / "weights.safetensors")


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as open_clip pushes it to the hub: SigLIP's own image tower, a smaller text tower.

    Bidirectional text tower read at its last position, logit bias, own tokenizer; the image is
    squashed and normalised about one half.
    """
    folder = tmp_path_factory.mktemp("siglip")
    config = {
        "embed_dim": 768,
        "init_logit_bias": -10,
        "init_logit_scale": 4.7,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 64,
            "vocab_size": 300,
            "hf_tokenizer_name": "own",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "width": 768,
            "heads": 12,
            "layers": 3,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        },
    }
    preprocess = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    write_tokenizer(folder)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}), encoding="utf-8"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = create_model(f"local-dir:{folder}")
        randomise(model)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder

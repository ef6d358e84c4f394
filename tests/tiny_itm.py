"""Small BLIP and BLIP-2 with image-text matching heads and seeded random weights, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from serve_app.config.spec import ModelSpec
from tests.tiny_transformers import make_tokenizer, save

_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
_VISION = {**_SMALL, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8}


def _tokenizer() -> Any:
    return make_tokenizer(bos="[CLS]", eos="[SEP]", pad="[PAD]", length=20)


def _processor() -> Any:
    return transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})


def blip(folder: Path, *, seed: int = 0, **options: Any) -> ModelSpec:
    """BLIP: a text encoder with cross-attention, read at its first token."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    text = {
        **_SMALL,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 32,
        "projection_dim": 16,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "sep_token_id": tokenizer.eos_token_id,
    }
    config = transformers.BlipConfig(
        text_config=text, vision_config=_VISION, image_text_hidden_size=16
    )
    save(folder, transformers.BlipForImageTextRetrieval(config), tokenizer, _processor())
    return ModelSpec(backend="itm", pretrained=str(folder), options=options)


def blip2(folder: Path, *, seed: int = 0, **options: Any) -> ModelSpec:
    """BLIP-2: query tokens between image and text."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    qformer = {
        **_SMALL,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "encoder_hidden_size": 32,
        "cross_attention_frequency": 1,
        "use_qformer_text_input": True,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.Blip2Config(
        vision_config=_VISION,
        qformer_config=qformer,
        text_config={
            "model_type": "opt",
            "hidden_size": 32,
            "vocab_size": 40,
            "num_hidden_layers": 1,
            "ffn_dim": 32,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
        },
        num_query_tokens=3,
        image_text_hidden_size=16,
    )
    save(folder, transformers.Blip2ForImageTextRetrieval(config), tokenizer, _processor())
    return ModelSpec(backend="itm", pretrained=str(folder), options=options)


HEADS: dict[str, Callable[..., ModelSpec]] = {"blip": blip, "blip2": blip2}
"""Writers of a checkpoint's folder, by family."""

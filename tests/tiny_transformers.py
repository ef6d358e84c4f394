"""Small dual encoders of the transformers library with seeded random weights, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = [
    "a",
    "red",
    "circle",
    "left",
    "of",
    "blue",
    "square",
    "two",
    "green",
    "triangles",
    "above",
    "yellow",
    "star",
    "photo",
    "dog",
    "that",
    "runs",
    "on",
    "the",
    "beach",
    "people",
    "who",
    "carry",
    "umbrellas",
    "in",
    "rain",
    "and",
    "very",
    "small",
    "x",
    "depicts",
]
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?-'"]

_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def make_tokenizer(
    *, bos: str | None, eos: str, pad: str, length: int, masks: bool = True
) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of words and, for other words, letters.

    Args:
        bos: Begins each text; None: nothing does.
        eos: Ends each text.
        pad: Pads; may be a token that texts have, as in some published checkpoints.
        length: What it claims as the longest text.
        masks: Whether it gives an attention mask.
    """
    special = [token for token in dict.fromkeys((pad, bos, eos, "<unk>")) if token]
    words = [word for word in dict.fromkeys((*LETTERS, *WORDS)) if word not in special]
    vocabulary = {token: number for number, token in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    begin = f"{bos} " if bos else ""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin}$A {eos}",
        special_tokens=[(token, vocabulary[token]) for token in (bos, eos) if token],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token="<unk>",
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"] if masks else ["input_ids"],
    )


def save(folder: Path, model: Any, tokenizer: Any, processor: Any, spread: float = 0.3) -> Path:
    """Writes a model with random weights as `save_pretrained` does, and what belongs to it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                continue
            # Wide enough that different inputs differ by far more than rounding.
            parameter.copy_(torch.randn(parameter.shape) * (spread if parameter.ndim > 1 else 0.1))
        if hasattr(model, "logit_bias"):
            model.logit_scale.fill_(2.0)
            model.logit_bias.fill_(-3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip(folder: Path, *, pad: str = "<pad>", eos: str = "<end>", seed: int = 0) -> Path:
    """CLIP: causal, read at the end of text, which has any id in a vocabulary of one's own."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(bos="<start>", eos=eos, pad=pad, length=16)
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return save(folder, transformers.CLIPModel(config), tokenizer, _processor("CLIP", size))


def siglip(folder: Path, *, length: int = 16, seed: int = 0) -> Path:
    """SigLIP: trained on texts padded to the context, whose padding it reads."""
    torch.manual_seed(seed)
    # Converted checkpoints claim to be endless.
    tokenizer = make_tokenizer(bos=None, eos="</s>", pad="</s>", length=int(1e30), masks=False)
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    config = transformers.SiglipConfig(
        text_config={**text, "projection_size": 32}, vision_config=_VISION
    )
    size = {
        "size": {"height": 32, "width": 32},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return save(folder, transformers.SiglipModel(config), tokenizer, _processor("Siglip", size))


def altclip(folder: Path, *, seed: int = 0) -> Path:
    """AltCLIP: a RoBERTa as text tower, whose positions begin behind the padding token's id."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(bos="<s>", eos="</s>", pad="<pad>", length=512)
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 18,
        "project_dim": 24,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return save(folder, transformers.AltCLIPModel(config), tokenizer, _processor("CLIP", size))


def chinese_clip(folder: Path, *, seed: int = 0) -> Path:
    """ChineseCLIP: a BERT as text tower, read at its first token."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(bos="[CLS]", eos="[SEP]", pad="[PAD]", length=16)
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.ChineseCLIPConfig(
        text_config=text, vision_config=_VISION, projection_dim=24
    )
    size = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    model = transformers.ChineseCLIPModel(config)
    return save(folder, model, tokenizer, _processor("ChineseCLIP", size))


def siglip2(folder: Path, *, length: int = 16, seed: int = 0) -> Path:
    """SigLIP 2 with NaFlex: as many patches as an image needs, padded and masked."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(bos=None, eos="</s>", pad="<pad>", length=int(1e30), masks=False)
    text = {**_TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": length}
    vision = {name: value for name, value in _VISION.items() if name != "image_size"}
    config = transformers.Siglip2Config(
        text_config={**text, "projection_size": 32}, vision_config={**vision, "num_patches": 16}
    )
    options = {"patch_size": 8, "max_num_patches": 24}
    return save(
        folder, transformers.Siglip2Model(config), tokenizer, _processor("Siglip2", options)
    )


def align(folder: Path, *, seed: int = 0) -> Path:
    """ALIGN: a convolutional image tower, a BERT, and a temperature that divides."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(bos="[CLS]", eos="[SEP]", pad="[PAD]", length=16)
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "image_size": 32,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 32,
        "kernel_sizes": [3],
        "in_channels": [32],
        "out_channels": [32],
        "strides": [1],
        "num_block_repeats": [1],
        "expand_ratios": [1],
        "depthwise_padding": [],
    }
    config = transformers.AlignConfig(text_config=text, vision_config=vision, projection_dim=32)
    size = {
        "size": {"height": 32, "width": 32},
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "do_normalize": False,
        "include_top": False,
    }
    model = transformers.AlignModel(config)
    return save(folder, model, tokenizer, _processor("EfficientNet", size), spread=1.0)


def _processor(family: str, options: dict[str, Any]) -> Any:
    return getattr(transformers, f"{family}ImageProcessorPil")(**options)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "clip": clip,
    "siglip": siglip,
    "altclip": altclip,
    "chinese_clip": chinese_clip,
    "siglip2": siglip2,
    "align": align,
}
"""Writers of a checkpoint's folder, by family."""

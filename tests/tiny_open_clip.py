"""Small OpenCLIP architectures with seeded random weights, written to disk for tests."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import CLIP, CustomTextCLIP
from safetensors.torch import save_file

CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}

RESNET_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}

SIGLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "init_logit_bias": -2.5,
    "vision_cfg": {
        "image_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 8,
        "pool_type": "avg",
    },
    "text_cfg": {
        "context_length": 16,
        "vocab_size": 300,
        "hf_tokenizer_name": "tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}

SENTENCES = (
    "a red circle left of a blue square",
    "two green triangles above a yellow star",
    "a photo of a dog that runs on the beach",
    "people who carry umbrellas in the rain",
)


def make_model(config: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """A model of a bare configuration with seeded random weights, by open_clip's own classes."""
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = CustomTextCLIP if config.get("custom_text") else CLIP
        model: torch.nn.Module = kind(**arguments)
        for name, parameter in model.named_parameters():
            # Zeros of the initialisation hide what a tower computes (biases, last ResNet norms).
            if parameter.ndim == 1 and "logit" not in name:
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    return model.eval()


def write_config(folder: Path, config: dict[str, Any], name: str = "tiny") -> Path:
    """Writes an architecture file, and the tokenizer that it names beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    if config["text_cfg"].get("hf_tokenizer_name"):
        write_tokenizer(folder / "tokenizer")
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def write_weights(path: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """Writes seeded random weights as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(make_model(config, seed).state_dict(), path)
    return path


def write_tokenizer(folder: Path) -> None:
    """Trains a small tokenizer that ends texts and pads as SigLIP's do (`</s>`, id 1)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator([*SENTENCES, "abcdefghijklmnopqrstuvwxyz 0123456789"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def built_in_tokenizer(context_length: int) -> Any:
    """open_clip's own tokenizer, untouched."""
    return open_clip.SimpleTokenizer(context_length=context_length)

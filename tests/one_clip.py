"""One small CLIP with random weights, in the form of three backends: the same scores from each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from serve_app.models.byte_pairs import BytePairs, default_vocabulary
from tests.tiny_torch_clip import VIT, make_state

_HEAD = 64


def write_three(folder: Path, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Writes the model in three forms, and returns a spec of each, by backend."""
    folder.mkdir(parents=True, exist_ok=True)
    # Norms of half precision would be rounded by who stores them so.
    state = {name: tensor.float() for name, tensor in make_state(VIT, seed).items()}
    torch.save(state, folder / "openai.pt")
    for name in ("input_resolution", "context_length", "vocab_size"):
        del state[name]
    save_file(state, folder / "open_clip.safetensors")
    (folder / "open_clip.json").write_text(json.dumps({**VIT, "quick_gelu": True}))
    write_transformers(folder / "transformers", state)
    return {
        "open_clip": {
            "backend": "open_clip",
            "architecture": str(folder / "open_clip.json"),
            "pretrained": str(folder / "open_clip.safetensors"),
        },
        "transformers": {
            "backend": "transformers",
            "pretrained": str(folder / "transformers"),
        },
        "torch_clip": {"backend": "torch_clip", "pretrained": str(folder / "openai.pt")},
    }


def write_transformers(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Writes what `save_pretrained` writes: weights, tokenizer, image processor."""
    vision, text = VIT["vision_cfg"], VIT["text_cfg"]
    pairs = BytePairs(default_vocabulary(), text["vocab_size"])
    common = {"hidden_act": "quick_gelu", "intermediate_size": 4 * vision["width"]}
    config = transformers.CLIPConfig(
        projection_dim=VIT["embed_dim"],
        vision_config={
            **common,
            "hidden_size": vision["width"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // _HEAD,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
        },
        text_config={
            **common,
            "hidden_size": text["width"],
            "num_hidden_layers": text["layers"],
            "num_attention_heads": text["width"] // _HEAD,
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "bos_token_id": pairs.start,
            "eos_token_id": pairs.end,
            "pad_token_id": pairs.end,
        },
    )
    model = transformers.CLIPModel(config)
    model.load_state_dict(_renamed(state), strict=True)
    model.save_pretrained(folder)
    vocabulary = {**pairs._ids, "<|startoftext|>": pairs.start, "<|endoftext|>": pairs.end}
    tokenizer = transformers.CLIPTokenizer(
        vocab=vocabulary, merges=list(pairs._ranks), model_max_length=text["context_length"]
    )
    tokenizer.save_pretrained(folder)
    size = vision["image_size"]
    transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    ).save_pretrained(folder)


def _renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names as those of transformers, which stores queries, keys and values apart."""
    found = {
        "logit_scale": state["logit_scale"],
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for prefix, other, layers in (
        ("visual.transformer", "vision_model", VIT["vision_cfg"]["layers"]),
        ("transformer", "text_model", VIT["text_cfg"]["layers"]),
    ):
        for layer in range(layers):
            block, target = f"{prefix}.resblocks.{layer}", f"{other}.encoder.layers.{layer}"
            norms |= {
                f"{block}.ln_1": f"{target}.layer_norm1",
                f"{block}.ln_2": f"{target}.layer_norm2",
                f"{block}.mlp.c_fc": f"{target}.mlp.fc1",
                f"{block}.mlp.c_proj": f"{target}.mlp.fc2",
                f"{block}.attn.out_proj": f"{target}.self_attn.out_proj",
            }
            for kind in ("weight", "bias"):
                parts = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                for name, part in zip("qkv", parts, strict=True):
                    found[f"{target}.self_attn.{name}_proj.{kind}"] = part.contiguous()
    for own, theirs in norms.items():
        for kind in ("weight", "bias"):
            found[f"{theirs}.{kind}"] = state[f"{own}.{kind}"]
    return found

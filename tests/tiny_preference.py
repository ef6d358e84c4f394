"""Small preference models with seeded random weights, in the form in which each is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from serve_app.config.spec import ModelSpec
from tests.tiny_open_clip import CLIP_CONFIG, make_model
from tests.tiny_transformers import clip, make_tokenizer

WIDTH, LAYERS, PATCH, SIZE, WORDS = 64, 2, 8, 32, 120


def pickscore(folder: Path) -> ModelSpec:
    """A checkpoint of transformers without tokenizer and processor, which are elsewhere."""
    weights, base = clip(folder / "PickScore"), folder / "base"
    base.mkdir()
    for path in list(weights.iterdir()):
        if path.name not in ("config.json", "model.safetensors"):
            path.rename(base / path.name)
    (base / "config.json").write_bytes((weights / "config.json").read_bytes())
    return ModelSpec(
        backend="preference",
        architecture="pickscore",
        pretrained=str(weights),
        options={"base": str(base)},
    )


def hpsv2(folder: Path) -> ModelSpec:
    """A training checkpoint of open_clip: the state dict is one of several entries."""
    (folder / "base.json").write_text(json.dumps(CLIP_CONFIG))
    state = make_model(CLIP_CONFIG).state_dict()
    torch.save({"epoch": 3, "state_dict": state}, folder / "HPS_v2_compressed.pt")
    return ModelSpec(
        backend="preference",
        architecture="hpsv2",
        pretrained=str(folder / "HPS_v2_compressed.pt"),
        options={"base": str(folder / "base.json")},
    )


def imagereward(folder: Path) -> ModelSpec:
    """BLIP's own names, with parts of its training that the reward does not use."""
    tokenizer = make_tokenizer(bos="[CLS]", eos="[SEP]", pad="[PAD]", length=512)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    torch.save(reward_state(), folder / "ImageReward.pt")
    return ModelSpec(
        backend="preference",
        architecture="imagereward",
        pretrained=str(folder / "ImageReward.pt"),
        options={"base": str(folder / "tokenizer")},
    )


def reward_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under the published names."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, WIDTH),
        "blip.visual_encoder.pos_embed": (1, (SIZE // PATCH) ** 2 + 1, WIDTH),
        "blip.visual_encoder.patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "blip.visual_encoder.patch_embed.proj.bias": (WIDTH,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "blip.text_encoder.embeddings.position_embeddings.weight": (64, WIDTH),
    }
    linear: dict[str, tuple[int, int]] = {
        "blip.vision_proj": (16, WIDTH),
        "blip.text_proj": (16, WIDTH),
    }
    norms = ["blip.visual_encoder.norm", "blip.text_encoder.embeddings.LayerNorm"]
    for layer in range(LAYERS):
        block = f"blip.visual_encoder.blocks.{layer}"
        norms += [f"{block}.norm1", f"{block}.norm2"]
        linear |= {
            f"{block}.attn.qkv": (3 * WIDTH, WIDTH),
            f"{block}.attn.proj": (WIDTH, WIDTH),
            f"{block}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"{block}.mlp.fc2": (WIDTH, 4 * WIDTH),
        }
        block = f"blip.text_encoder.encoder.layer.{layer}"
        for kind in ("attention", "crossattention"):
            norms.append(f"{block}.{kind}.output.LayerNorm")
            linear[f"{block}.{kind}.output.dense"] = (WIDTH, WIDTH)
            for part in ("query", "key", "value"):
                linear[f"{block}.{kind}.self.{part}"] = (WIDTH, WIDTH)
        norms.append(f"{block}.output.LayerNorm")
        linear |= {
            f"{block}.intermediate.dense": (4 * WIDTH, WIDTH),
            f"{block}.output.dense": (WIDTH, 4 * WIDTH),
        }
    widths = (WIDTH, 48, 32, 16, 8, 1)
    for place, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        linear[f"mlp.layers.{place}"] = (after, before)
    for name, (rows, columns) in linear.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        scale = 0.15 if name.startswith("mlp") else 0.3 if len(shape) > 1 else 0.2
        state[name] = scale * torch.randn(shape, generator=generator)
        if name.endswith("weight") and len(shape) == 1:
            state[name] += 1
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return state


class Head(nn.Sequential):
    """The reward's head as it was published, with dropout in its places."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        widths = (WIDTH, 48, 32, 16, 8, 1)
        layers: list[nn.Module] = [
            nn.Linear(widths[0], widths[1]),
            nn.Dropout(0.2),
            nn.Linear(widths[1], widths[2]),
            nn.Dropout(0.2),
            nn.Linear(widths[2], widths[3]),
            nn.Dropout(0.1),
            nn.Linear(widths[3], widths[4]),
            nn.Linear(widths[4], widths[5]),
        ]
        super().__init__(*layers)
        prefix = "mlp.layers."
        self.load_state_dict(
            {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        )


PAIRS: dict[str, Callable[[Path], ModelSpec]] = {"imagereward": imagereward}
DUALS: dict[str, Callable[[Path], ModelSpec]] = {"pickscore": pickscore, "hpsv2": hpsv2}
"""Writers of a model's files, by preset."""

"""Preference models score as they were published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor
from torchvision.transforms import functional as vision

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import OPENAI_MEAN, OPENAI_STD
from serve_app.models.base import Placement, SimilarityModel
from serve_app.models.factory import SimilarityModelFactory
from tests.tiny_open_clip import CLIP_CONFIG
from tests.tiny_preference import (
    LAYERS,
    PATCH,
    SIZE,
    WIDTH,
    Head,
    hpsv2,
    imagereward,
    pickscore,
    reward_state,
)

BOUND = 1e-5
TEXTS = ("a red circle left of a blue square", "two dogs", "x")


def load(spec: ModelSpec) -> SimilarityModel:
    model = SimilarityModelFactory().create(spec, Placement("cpu", "fp32", 1))
    model.load()
    return model


def ours(spec: ModelSpec, images: tuple[Image.Image, ...]) -> NDArray[np.float64]:
    """What becomes `score`, of every image with every text."""
    model = load(spec)
    fitted = [model.preprocess.apply(image) for image in images]
    scores = model.compute_similarity([(image, text) for image in fitted for text in TEXTS])
    primary = model.capabilities.primary
    return np.array([score[primary] for score in scores]).reshape(len(images), len(TEXTS))


def test_pickscore_is_the_scaled_cosine(tmp_path: Path, images: tuple[Image.Image, ...]) -> None:
    """exp(logit scale) x cosine, features by transformers' CLIP and the base's own processor."""
    spec = pickscore(tmp_path)
    base = str(spec.options["base"])
    model: Any = transformers.CLIPModel.from_pretrained(str(spec.pretrained)).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(base, backend="pil")
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        pixels = processor(images=list(images), return_tensors="pt")
        left = model.get_image_features(**pixels).pooler_output
        tokens = tokenizer(list(TEXTS), padding=True, truncation=True, return_tensors="pt")
        right = model.get_text_features(**tokens).pooler_output
        left, right = (
            left / left.norm(dim=-1, keepdim=True),
            right / right.norm(dim=-1, keepdim=True),
        )
        expected = (model.logit_scale.exp() * left @ right.T).numpy()
    assert np.std(expected) > 1e-2
    assert np.abs(ours(spec, images) - expected).max() <= BOUND / 0.07


def _longest(image: Image.Image, size: int) -> Image.Image:
    """HPSv2's own fitting: the longer side to the size, the rest filled with black."""
    scale = size / max(image.size)
    width, height = (round(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    across, down = size - width, size - height
    padding = [across // 2, down // 2, across - across // 2, down - down // 2]
    padded: Image.Image = vision.pad(image, padding, fill=0)
    return padded


def test_hpsv2_is_the_cosine_of_the_whole_image(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    spec = hpsv2(tmp_path)
    model: Any = open_clip.CLIP(**CLIP_CONFIG)
    checkpoint = torch.load(str(spec.pretrained), weights_only=True)
    model.load_state_dict(checkpoint["state_dict"])
    transform = Compose([ToTensor(), Normalize(OPENAI_MEAN, OPENAI_STD)])
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    with torch.no_grad():
        pixels = torch.stack([transform(_longest(image, 32)) for image in images])
        left = model.eval().encode_image(pixels, normalize=True)
        expected = (left @ model.encode_text(tokenizer(list(TEXTS)), normalize=True).T).numpy()
    assert np.std(expected) > 1e-3
    found = ours(spec, images)
    assert np.abs(found - expected).max() <= BOUND
    # A centre crop, as of any other CLIP, would pass unnoticed.
    cropped = spec.model_copy(
        update={"preprocessing": spec.preprocessing.model_copy(update={"resize_mode": "shortest"})}
    )
    assert np.abs(ours(cropped, images) - expected).max() > 100 * BOUND


def _attend(
    state: dict[str, torch.Tensor],
    name: str,
    states: torch.Tensor,
    seen: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention as BLIP's text part writes it out."""

    def part(kind: str, given: torch.Tensor) -> torch.Tensor:
        weight, bias = (state[f"{name}.self.{kind}.{end}"] for end in ("weight", "bias"))
        return torch.nn.functional.linear(given, weight, bias)

    logits = part("query", states) @ part("key", seen).transpose(-1, -2) / math.sqrt(WIDTH)
    if mask is not None:
        logits = logits + (1 - mask[:, None, :]) * -10000.0
    mixed = logits.softmax(dim=-1) @ part("value", seen)
    dense = torch.nn.functional.linear(
        mixed, state[f"{name}.output.dense.weight"], state[f"{name}.output.dense.bias"]
    )
    return _norm(state, f"{name}.output.LayerNorm", dense + states, 1e-12)


def _norm(
    state: dict[str, torch.Tensor], name: str, values: torch.Tensor, eps: float
) -> torch.Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return torch.nn.functional.layer_norm(values, values.shape[-1:], weight, bias, eps)


def _linear(state: dict[str, torch.Tensor], name: str, values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(values, state[f"{name}.weight"], state[f"{name}.bias"])


def _see(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """A vision transformer, written out; one head of 64, as the width is 64."""
    root = "blip.visual_encoder"
    patches = torch.nn.functional.conv2d(
        pixels,
        state[f"{root}.patch_embed.proj.weight"],
        state[f"{root}.patch_embed.proj.bias"],
        stride=PATCH,
    )
    states = torch.cat(
        [
            state[f"{root}.cls_token"].expand(len(pixels), -1, -1),
            patches.flatten(2).transpose(1, 2),
        ],
        dim=1,
    )
    states = states + state[f"{root}.pos_embed"]
    for layer in range(LAYERS):
        block = f"{root}.blocks.{layer}"
        mixed = _linear(state, f"{block}.attn.qkv", _norm(state, f"{block}.norm1", states, 1e-6))
        query, key, value = mixed.chunk(3, dim=-1)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(WIDTH)).softmax(dim=-1)
        states = states + _linear(state, f"{block}.attn.proj", weights @ value)
        hidden = _linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", states, 1e-6))
        states = states + _linear(state, f"{block}.mlp.fc2", torch.nn.functional.gelu(hidden))
    return _norm(state, f"{root}.norm", states, 1e-6)


def _read(
    state: dict[str, torch.Tensor], ids: torch.Tensor, mask: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    root = "blip.text_encoder"
    states = state[f"{root}.embeddings.word_embeddings.weight"][ids]
    states = states + state[f"{root}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    states = _norm(state, f"{root}.embeddings.LayerNorm", states, 1e-12)
    for layer in range(LAYERS):
        block = f"{root}.encoder.layer.{layer}"
        states = _attend(state, f"{block}.attention", states, states, mask)
        states = _attend(state, f"{block}.crossattention", states, seen)
        hidden = torch.nn.functional.gelu(_linear(state, f"{block}.intermediate.dense", states))
        dense = _linear(state, f"{block}.output.dense", hidden)
        states = _norm(state, f"{block}.output.LayerNorm", dense + states, 1e-12)
    return states[:, 0]


def test_imagereward_is_the_heads_number_less_its_mean(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    """Against the published computation, written out here; texts padded to 35 tokens."""
    spec = imagereward(tmp_path)
    state = reward_state()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(spec.options["base"]))
    transform = open_clip.image_transform((SIZE, SIZE), is_train=False)
    head = Head(state).eval()
    expected = []
    with torch.no_grad():
        for image in images:
            seen = _see(state, transform(image)[None])
            for text in TEXTS:
                given = tokenizer(
                    text, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
                )
                features = _read(state, given["input_ids"], given["attention_mask"], seen)
                reward = (head(features) - 0.16717362830052426) / 1.0333394966054072
                expected.append(float(reward[0, 0]))
    assert np.std(expected) > 1e-2
    found = ours(spec, images).ravel()
    assert np.abs(found - expected).max() <= BOUND * max(1, np.abs(expected).max())


def test_a_long_prompt_is_cut_where_it_was_in_training(tmp_path: Path) -> None:
    model = load(imagereward(tmp_path))
    assert model.capabilities.context_length == 35
    assert model.count_tokens(["a red circle " * 40]) == (122,)


def _other_weights(folder: Path, spec: ModelSpec) -> ModelSpec:
    torch.save({"a": torch.zeros(3)}, folder / "other.pt")
    return spec.model_copy(update={"pretrained": str(folder / "other.pt")})


def _a_tensor_less(folder: Path, spec: ModelSpec) -> ModelSpec:
    state = torch.load(str(spec.pretrained), weights_only=True)
    inner = state.get("state_dict", state)
    inner.pop(next(name for name in inner if name.endswith("bias")))
    torch.save(state, str(spec.pretrained))
    return spec


def _missing(folder: Path, spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"pretrained": str(folder / "absent.pt")})


def _checksum(folder: Path, spec: ModelSpec) -> ModelSpec:
    return spec.model_copy(update={"sha256": "0" * 64})


@pytest.mark.parametrize("write", [hpsv2, imagereward])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_other_weights, "another architecture|no ImageReward"),
        (_a_tensor_less, "missing"),
        (_missing, "absent.pt"),
        (_checksum, "does not match"),
    ],
)
def test_what_cannot_be_loaded_is_told(write: Any, spoil: Any, told: str, tmp_path: Path) -> None:
    spec = spoil(tmp_path, write(tmp_path))
    with pytest.raises(ModelLoadError, match=told):
        load(spec)


def test_a_tokenizer_with_more_tokens_than_the_weights_is_told(tmp_path: Path) -> None:
    spec = imagereward(tmp_path)
    state = reward_state()
    name = "blip.text_encoder.embeddings.word_embeddings.weight"
    state[name] = state[name][:10]
    torch.save(state, str(spec.pretrained))
    with pytest.raises(ModelLoadError, match=r"10.*options\.base"):
        load(spec)


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    spec = ModelSpec(backend="preference", architecture="pickscor")
    with pytest.raises(ModelLoadError, match="pickscore"):
        load(spec)


@pytest.mark.parametrize("preset", ["hpsv2", "imagereward"])
def test_published_weights_without_network_say_what_to_do(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"network.*HF_HOME.*pretrained"):
        load(ModelSpec(backend="preference", architecture=preset))

"""The backend's scores equal the transformers library's own path, and the known silent errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.transformers_dual import TransformersModel
from tests.tiny_transformers import FAMILIES, clip, make_tokenizer, siglip

BOUND = 1e-5
TEXTS = (
    "a red circle left of a blue square",
    "A photo of a DOG that runs on the beach!",
    "x",
    "many people who carry umbrellas in the rain " * 5,
)


class Reference(NamedTuple):
    """What the library gives, shape (images, texts)."""

    cosine: NDArray[np.float32]
    logit: NDArray[np.float32]


def reference(
    folder: Path, images: Sequence[Image.Image], texts: Sequence[str] = TEXTS, **text: Any
) -> Reference:
    """The library's documented path: its processors, one call of the model, its own logits."""
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = processor(images=list(images), return_tensors="pt")
    tokens = tokenizer(list(texts), truncation=True, return_tensors="pt", **text)
    with torch.no_grad():
        output = model(**tokens, **pixels)
    left, right = (
        torch.nn.functional.normalize(rows, dim=-1)
        for rows in (output.image_embeds, output.text_embeds)
    )
    return Reference((left @ right.T).numpy(), output.logits_per_image.numpy())


def ours(
    folder: Path,
    images: Sequence[Image.Image],
    texts: Sequence[str] = TEXTS,
    one_by_one: bool = False,
) -> Reference:
    """The backend's scores, all texts at once or each by itself."""
    spec = ModelSpec(backend="transformers", pretrained=str(folder))
    model = TransformersModel(spec, Placement("cpu", "fp32", 1))
    model.load()
    pixels = [model.preprocess.apply(image) for image in images]
    pairs = [(image, text) for image in pixels for text in texts]
    if one_by_one:
        scores = [model.compute_similarity([pair])[0] for pair in pairs]
    else:
        scores = model.compute_similarity(pairs)
    shape = (len(images), len(texts))
    return Reference(
        np.array([score["cosine"] for score in scores]).reshape(shape),
        np.array([score["logit"] for score in scores]).reshape(shape),
    )


def scale_of(folder: Path) -> float:
    model = transformers.AutoModel.from_pretrained(folder)
    if hasattr(model, "logit_scale"):
        return float(model.logit_scale.detach().exp())
    return 1 / float(model.temperature.detach())


PADDING = {
    "clip": {"padding": True},
    "siglip": {"padding": "max_length", "max_length": 16},
    "altclip": {"padding": True, "max_length": 17},
    "chinese_clip": {"padding": True},
    "siglip2": {"padding": "max_length", "max_length": 16},
    "align": {"padding": True},
}


@pytest.mark.parametrize("one_by_one", [False, True], ids=["together", "one by one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_librarys(
    family: str, one_by_one: bool, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    folder = FAMILIES[family](tmp_path)
    expected = reference(folder, images, **PADDING[family])
    found = ours(folder, images, one_by_one=one_by_one)
    assert np.std(expected.cosine) > 1e-3  # else equality would mean nothing
    assert np.abs(found.cosine - expected.cosine).max() <= BOUND
    assert np.abs(found.logit - expected.logit).max() <= BOUND * scale_of(folder)


def test_siglip_is_wrong_without_padding_to_its_context(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    """Were it padded as CLIP is, this would pass unnoticed: the scores look plausible."""
    folder = siglip(tmp_path)
    wrong = reference(folder, images, TEXTS[:2], padding=True, max_length=16)
    found = ours(folder, images, TEXTS[:2])
    assert np.abs(found.cosine - wrong.cosine).max() > 100 * BOUND


@pytest.mark.parametrize(
    ("pad", "eos"),
    [("<pad>", "<end>"), ("<end>", "<end>"), ("!", "<end>"), ("zz", "aa")],
    ids=["own", "end is padding", "padding is a real token", "end is not the highest id"],
)
def test_the_end_of_a_text_is_found_whatever_the_vocabulary(
    pad: str, eos: str, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    """Each text by itself has no padding, so nothing about it can be wrong there."""
    folder = clip(tmp_path, pad=pad, eos=eos)
    together, alone = ours(folder, images), ours(folder, images, one_by_one=True)
    assert np.abs(together.cosine - alone.cosine).max() <= BOUND
    expected = reference(folder, images, padding=True)
    assert np.abs(together.cosine - expected.cosine).max() <= BOUND


def test_palette_images_are_converted_before_they_are_resized(tmp_path: Path) -> None:
    """Resizing palette indices gives colours that were never there."""
    rng = np.random.default_rng(3)
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((200, 150))
    palette = picture.quantize(64)
    folder = clip(tmp_path)
    expected = reference(folder, [palette.convert("RGB")], padding=True)
    found = ours(folder, [palette.convert("RGB")])
    assert np.abs(found.cosine - expected.cosine).max() <= BOUND


def test_the_context_is_what_both_tokenizer_and_positions_allow(tmp_path: Path) -> None:
    spec = ModelSpec(backend="transformers", pretrained=str(siglip(tmp_path)))
    model = TransformersModel(spec, Placement("cpu", "fp32", 1))
    model.load()
    assert model.capabilities.context_length == 16, "its tokenizer claims to be endless"
    model = TransformersModel(
        ModelSpec(backend="transformers", pretrained=str(FAMILIES["altclip"](tmp_path / "alt"))),
        Placement("cpu", "fp32", 1),
    )
    model.load()
    assert model.capabilities.context_length == 17, "positions begin behind the padding token"
    model.encode_texts(["a red circle " * 50])


def _without(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()

    return spoil


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def _other_architecture(folder: Path) -> None:
    weights = (folder / "model.safetensors").read_bytes()
    siglip(folder)
    (folder / "model.safetensors").write_bytes(weights)


def _no_padding_token(folder: Path) -> None:
    tokenizer = make_tokenizer(bos="<start>", eos="<end>", pad="<pad>", length=16)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without("model.safetensors"), "cannot be loaded"),
        (_without("preprocessor_config.json"), "cannot be loaded"),
        (_cut_weights, "failed"),
        (_other_architecture, "another architecture|mismatch|size"),
        (_no_padding_token, "no padding token"),
    ],
    ids=["no weights", "no image processor", "cut weights", "another architecture", "no padding"],
)
def test_what_cannot_be_loaded_is_told_and_leaves_nothing_half_loaded(
    spoil: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    folder = clip(tmp_path)
    spoil(folder)
    spec = ModelSpec(backend="transformers", pretrained=str(folder))
    model = TransformersModel(spec, Placement("cpu", "fp32", 1))
    with pytest.raises(ModelLoadError, match=told):
        model.load()
    assert model._state is None


def test_a_wrong_checksum_is_told_with_both(tmp_path: Path) -> None:
    spec = ModelSpec(backend="transformers", pretrained=str(clip(tmp_path)), sha256="0" * 64)
    with pytest.raises(ModelLoadError, match="does not match"):
        TransformersModel(spec, Placement("cpu", "fp32", 1)).load()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_stay_near_and_do_not_overflow(
    precision: str, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    """Cosine and logit are computed in fp32: 100 x a cosine is fine in fp16, its exp is not."""
    folder = siglip(tmp_path)
    full = ours(folder, images)
    spec = ModelSpec(backend="transformers", pretrained=str(folder))
    model = TransformersModel(spec, Placement("cpu", precision, 1))
    model.load()
    pixels = [model.preprocess.apply(image) for image in images]
    scores = model.compute_similarity([(image, text) for image in pixels for text in TEXTS])
    half = np.array([score["cosine"] for score in scores]).reshape(full.cosine.shape)
    assert np.isfinite([score["probability"] for score in scores]).all()
    assert 0 < np.abs(half - full.cosine).max() < 0.05

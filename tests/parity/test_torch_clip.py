"""`torch_clip` computes what open_clip makes of the same file in OpenAI's format."""

from __future__ import annotations

import gzip
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.byte_pairs import default_vocabulary
from serve_app.models.torch_clip import TorchClipModel
from tests.parity.conftest import TEXTS
from tests.tiny_open_clip import CLIP_CONFIG, write_weights
from tests.tiny_torch_clip import RESNET, VIT, make_state, write_state

BOUND = 1e-5
CONFIGS = {"vit": VIT, "resnet": RESNET}


def load(path: Path, precision: str = "fp32", **options: Any) -> TorchClipModel:
    spec = ModelSpec(backend="torch_clip", pretrained=str(path), options=options)
    model = TorchClipModel(spec, Placement("cpu", precision, 1))
    model.load()
    return model


def cosines(model: TorchClipModel, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    pixels = [model.preprocess.apply(image) for image in images]
    scores = model.compute_similarity([(image, text) for image in pixels for text in TEXTS])
    return np.array([score["cosine"] for score in scores]).reshape(len(images), len(TEXTS))


def reference(path: Path, images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """open_clip's own way with such a file: its loader, its transform, its tokenizer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tries the file as TorchScript first
        model: Any = open_clip.load_openai_model(str(path), precision="fp32", device="cpu").eval()
    transform = open_clip.image_transform(model.visual.image_size, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    with torch.no_grad():
        left = model.encode_image(torch.stack([transform(image) for image in images]), True)
        right = model.encode_text(tokenizer(list(TEXTS)), True)
    found: NDArray[np.float32] = (left @ right.T).numpy()
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_scores_equal_open_clips(
    kind: str, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    path = write_state(tmp_path / "openai.pt", CONFIGS[kind])
    expected = reference(path, images)
    assert np.std(expected) > 1e-3  # else equality would mean nothing
    model = load(path)
    assert np.abs(cosines(model, images) - expected).max() <= BOUND
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_quick_gelu_makes_a_difference_that_would_pass_unnoticed(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    path = write_state(tmp_path / "openai.pt")
    expected = reference(path, images)
    wrong = cosines(load(path, quick_gelu=False), images)
    assert np.abs(wrong - expected).max() > 10 * BOUND
    assert np.corrcoef(wrong.ravel(), expected.ravel())[0, 1] > 0.9


def test_a_checkpoint_of_open_clip_itself_without_quick_gelu(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    config = {**CLIP_CONFIG, **VIT}
    path = write_weights(tmp_path / "weights.safetensors", config)
    model: Any = open_clip.CLIP(**config)
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path))
    transform = open_clip.image_transform((32, 32), is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    with torch.no_grad():
        left = model.eval().encode_image(torch.stack([transform(i) for i in images]), True)
        expected = (left @ model.encode_text(tokenizer(list(TEXTS)), True).T).numpy()
    found = cosines(load(path, quick_gelu=False), images)
    assert np.abs(found - expected).max() <= BOUND


def test_a_vocabulary_of_ones_own_ends_texts_where_they_end(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    """With fewer pairs the end token has another id, and the one that CLIP has is a word's."""
    pairs = 600
    config = {**VIT, "text_cfg": {**VIT["text_cfg"], "vocab_size": pairs + 514}}
    path = write_state(tmp_path / "own.pt", config)
    vocabulary = tmp_path / "own.txt"
    lines = gzip.decompress(default_vocabulary().read_bytes()).decode().splitlines()
    vocabulary.write_text("\n".join(lines[: pairs + 1]))
    model = load(path, vocabulary=str(vocabulary))
    assert model._loaded.texts.tokens(["a"])[0][0][-1] == pairs + 513
    together = model.encode_texts(TEXTS).embeddings
    alone = np.concatenate([model.encode_texts([text]).embeddings for text in TEXTS])
    assert np.abs(together - alone).max() <= BOUND
    # One that ends too early is refused: ids would be those of other words.
    vocabulary.write_text("\n".join(lines[:pairs]))
    with pytest.raises(ModelLoadError, match=r"600.*options\.vocabulary"):
        load(path, vocabulary=str(vocabulary))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_stay_near(
    kind: str, precision: str, tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    path = write_state(tmp_path / "openai.pt", CONFIGS[kind])
    difference = np.abs(cosines(load(path, precision), images) - reference(path, images)).max()
    assert 0 < difference < 0.05


class _Program(torch.nn.Module):
    """An archive as OpenAI published them: the state dict of a whole model, as a program."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            module: torch.nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_buffer(last, tensor)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_torchscript_is_run_by_explicit_allowance_alone(
    tmp_path: Path, images: tuple[Image.Image, ...]
) -> None:
    state = make_state()
    path = tmp_path / "ViT-tiny.pt"
    torch.jit.save(torch.jit.script(_Program(state)), path)
    with pytest.raises(ModelLoadError, match=r"program.*allow_torchscript"):
        load(path)
    plain = write_state(tmp_path / "plain.pt")
    found = cosines(load(path, allow_torchscript=True), images)
    np.testing.assert_array_equal(found, cosines(load(plain), images))


def test_neither_open_clip_nor_transformers_is_imported(tmp_path: Path) -> None:
    path = write_state(tmp_path / "openai.safetensors")
    program = (
        "import sys\n"
        "from serve_app.config.spec import ModelSpec\n"
        "from serve_app.models.base import Placement\n"
        "from serve_app.models.factory import SimilarityModelFactory\n"
        f"spec = ModelSpec(backend='torch_clip', pretrained={str(path)!r})\n"
        "model = SimilarityModelFactory().create(spec, Placement('cpu', 'fp32', 1))\n"
        "model.load()\n"
        "model.warmup()\n"
        "found = {'open_clip', 'transformers', 'torchvision'} & set(sys.modules)\n"
        "sys.exit(', '.join(found) or None)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def _drop(state: dict[str, torch.Tensor]) -> None:
    del state["visual.transformer.resblocks.1.mlp.c_fc.bias"]


def _foreign(state: dict[str, torch.Tensor]) -> None:
    state.clear()
    state["text_model.embeddings.token_embedding.weight"] = torch.zeros(3, 3)


def _reshape(state: dict[str, torch.Tensor]) -> None:
    state["text_projection"] = torch.zeros(64, 48)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_drop, r"missing: visual\.transformer\.resblocks\.1\.mlp\.c_fc\.bias"),
        (_foreign, "no CLIP in OpenAI's format"),
        (_reshape, "of another shape"),
    ],
)
def test_other_weights_are_told_and_leave_nothing_half_loaded(
    spoil: Any, told: str, tmp_path: Path
) -> None:
    state = make_state()
    spoil(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    model = TorchClipModel(
        ModelSpec(backend="torch_clip", pretrained=str(path)), Placement("cpu", "fp32", 1)
    )
    with pytest.raises(ModelLoadError, match=told):
        model.load()
    assert model._state is None

import gc
import logging
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import load_file, save_file

from serve_app.config.spec import ModelSpec
from serve_app.errors import DeviceUnavailableError, ModelError, ModelLoadError
from serve_app.models.base import Placement
from serve_app.models.open_clip import OpenClipModel
from tests.tiny_open_clip import (
    CLIP_CONFIG,
    RESNET_CONFIG,
    SIGLIP_CONFIG,
    write_config,
    write_weights,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    for name, config in (("clip", CLIP_CONFIG), ("rn", RESNET_CONFIG), ("siglip", SIGLIP_CONFIG)):
        write_config(folder, config, name)
        write_weights(folder / f"{name}.safetensors", config)
    return folder


def make(folder: Path, name: str = "clip", precision: str = "fp32", **fields: Any) -> OpenClipModel:
    fields.setdefault("pretrained", str(folder / f"{name}.safetensors"))
    spec = ModelSpec(architecture=str(folder / f"{name}.json"), **fields)
    return OpenClipModel(spec, Placement("cpu", precision, 1))


def load(folder: Path, name: str = "clip", precision: str = "fp32", **fields: Any) -> OpenClipModel:
    model = make(folder, name, precision, **fields)
    model.load()
    return model


def image(model: OpenClipModel, seed: int = 0) -> np.ndarray:
    shape = (*model.preprocess.size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_model_tells_about_itself(folder: Path) -> None:
    model = load(folder, performance={"max_batch": 3})
    weights = load_file(folder / "clip.safetensors")
    assert model.parameters == sum(tensor.numel() for tensor in weights.values())
    assert model.bytes == 4 * model.parameters + 16 * 16 * 4  # and the causal mask
    assert model.capabilities.max_batch == 3
    assert model.capabilities.metrics == ("cosine", "logit", "clipscore")
    assert model.capabilities.default_metrics == ("cosine", "logit")
    assert model.capabilities.primary == "cosine"
    assert model.capabilities.context_length == 16
    assert model.logit_scale == pytest.approx(1 / 0.07)
    assert model.logit_bias == 0
    assert model.details["image_size"] == "32x32"
    assert model.details["patch_size"] == "8"
    assert len(model.details["weights_sha256"]) == 64
    counts = [int(model.details[f"{tower}_parameters"]) for tower in ("image", "text")]
    assert sum(counts) == model.parameters
    assert load(folder).capabilities.max_batch == 32


def test_sigmoid_models_give_probabilities(folder: Path) -> None:
    model = load(folder, "siglip")
    assert model.capabilities.primary == "probability"
    assert model.capabilities.default_metrics == ("cosine", "logit", "probability")
    (scores,) = model.compute_similarity([(image(model), "a red circle")])
    logit = scores["cosine"] * model.logit_scale - 2.5
    assert scores["logit"] == pytest.approx(logit, abs=1e-5)
    assert scores["probability"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    assert load(folder, "siglip", primary="logit").capabilities.primary == "logit"


def test_primary_must_be_a_metric_of_the_model(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="probability"):
        load(folder, primary="probability")


def test_preprocessing_of_the_spec_is_used(folder: Path) -> None:
    model = load(folder, preprocessing={"mean": [0.5, 0.5, 0.5], "resize_mode": "squash"})
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    assert model.preprocess.resize_mode == "squash"
    assert model.preprocess.size == (32, 32)
    other = load(folder)
    pixels = [image(model)]
    assert np.abs(model.encode_images(pixels) - other.encode_images(pixels)).max() > 1e-3
    with pytest.raises(ModelLoadError, match=r"preprocessing\.size"):
        load(folder, preprocessing={"size": 64})


def test_checksum_is_verified_before_loading(folder: Path) -> None:
    digest = load(folder).details["weights_sha256"]
    assert load(folder, sha256=digest).details["weights_sha256"] == digest
    with pytest.raises(ModelLoadError, match="f" * 64):
        load(folder, sha256="f" * 64)


def test_random_weights_are_open_clips_own_for_the_seed(folder: Path) -> None:
    state = torch.random.get_rng_state()
    arguments = {"pretrained": "random", "allow_random_weights": True}
    model = load(folder, seed=3, **arguments)
    assert torch.equal(torch.random.get_rng_state(), state)  # others' random numbers stay
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        reference = open_clip.CLIP(**CLIP_CONFIG).eval()
    ids = open_clip.SimpleTokenizer(context_length=16)(["a dog"])
    with torch.no_grad():
        expected = reference.encode_text(ids, normalize=True)[0].numpy()
    np.testing.assert_allclose(model.encode_texts(["a dog"]).embeddings[0], expected, atol=1e-6)
    other = load(folder, seed=4, **arguments).encode_texts(["a dog"]).embeddings[0]
    assert np.abs(other - expected).max() > 1e-2


@pytest.mark.parametrize("name", ["clip", "rn", "siglip"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_and_takes_half_the_memory(
    folder: Path, name: str, precision: str
) -> None:
    full, half = load(folder, name), load(folder, name, precision)
    assert half.bytes < 0.55 * full.bytes
    images, texts = [image(full, seed) for seed in range(3)], ["a red circle", "a dog", "x " * 40]
    for left, right in (
        (full.encode_images(images), half.encode_images(images)),
        (full.encode_texts(texts).embeddings, half.encode_texts(texts).embeddings),
    ):
        assert right.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(right, axis=1), 1, atol=1e-5)
        assert 0 < np.abs(left - right).max() < 0.03
    assert half.logit_scale == full.logit_scale


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_other_files_give_the_same_embeddings(folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save({"state_dict": load_file(folder / "clip.safetensors")}, path)
    left, right = load(folder), load(folder, pretrained=str(path))
    np.testing.assert_array_equal(
        left.encode_texts(["a dog"]).embeddings, right.encode_texts(["a dog"]).embeddings
    )


def test_weights_do_not_change_with_their_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes((folder / "clip.safetensors").read_bytes())
    model = load(folder, pretrained=str(path))
    before = model.encode_texts(["a dog"]).embeddings
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(b"\x77" * 4096)
        file.truncate(8192)
    np.testing.assert_array_equal(model.encode_texts(["a dog"]).embeddings, before)


def damaged(folder: Path, tmp_path: Path, change: str) -> Path:
    state = load_file(folder / "clip.safetensors")
    if change == "missing":
        del state["ln_final.weight"]
    elif change == "unexpected":
        state["visual.extra"] = torch.zeros(1)
    else:
        state["visual.proj"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "other.safetensors")
    return tmp_path / "other.safetensors"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("missing", "ln_final.weight"),
        ("unexpected", "visual.extra"),
        ("shape", r"visual.proj is \(3, 3\) and should be \(64, 32\)"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    folder: Path, tmp_path: Path, change: str, named: str
) -> None:
    model = make(folder, pretrained=str(damaged(folder, tmp_path, change)))
    with pytest.raises(ModelLoadError, match=f"another architecture.*{named}"):
        model.load()
    with pytest.raises(ModelError, match="not loaded"):  # nothing is half there
        _ = model.bytes


def test_unknown_keys_of_an_architecture_are_named(folder: Path, tmp_path: Path) -> None:
    config = {**CLIP_CONFIG, "vision_cfg": {**CLIP_CONFIG["vision_cfg"], "colour": "blue"}}
    path = write_config(tmp_path, config)
    spec = ModelSpec(architecture=str(path), pretrained=str(folder / "clip.safetensors"))
    with pytest.raises(ModelLoadError, match="colour"):
        OpenClipModel(spec, Placement()).load()


def test_unknown_options_are_named(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="jit"):
        load(folder, options={"jit": True})
    with pytest.raises(ModelLoadError, match="quick_gelu"):
        load(folder, options={"quick_gelu": "yes"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpu_is_refused_where_there_is_none(folder: Path) -> None:
    spec = ModelSpec(architecture=str(folder / "clip.json"), pretrained="random")
    with pytest.raises(DeviceUnavailableError):
        OpenClipModel(spec, Placement("cuda", "bf16", 1)).load()


def test_unload_frees_the_weights(folder: Path) -> None:
    model = load(folder)
    module = weakref.ref(model._loaded.model)
    model.encode_texts(["a dog"])
    model.unload()
    gc.collect()
    assert module() is None


def test_tags_trained_with_quick_gelu_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip itself warns under the plain name, and computes another function."""
    tag = {"file": str(folder / "clip.safetensors"), "mean": (0.1, 0.2, 0.3), "hf_hub": ""}
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Tiny", CLIP_CONFIG)
    monkeypatch.setitem(_PRETRAINED, "Tiny", {"plain": tag, "openai": {**tag, "quick_gelu": True}})

    def embed(**fields: Any) -> np.ndarray:
        model = OpenClipModel(ModelSpec(architecture="Tiny", **fields), Placement())
        model.load()
        assert model.preprocess.mean == (0.1, 0.2, 0.3) or "options" in fields
        return model.encode_texts(["a dog"]).embeddings

    reference = open_clip.create_model(
        "Tiny", str(folder / "clip.safetensors"), force_quick_gelu=True
    ).eval()
    with torch.no_grad():
        ids = open_clip.SimpleTokenizer(context_length=16)(["a dog"])
        expected = reference.encode_text(ids, normalize=True).numpy()
    np.testing.assert_allclose(embed(pretrained="openai"), expected, atol=1e-6)
    assert np.abs(embed(pretrained="plain") - expected).max() > 1e-5
    local = embed(pretrained=tag["file"], options={"quick_gelu": True})
    np.testing.assert_allclose(local, expected, atol=1e-6)


def test_loading_is_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    handlers = list(logging.getLogger().handlers)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        for name in ("clip", "rn", "siglip"):
            model = load(folder, name)
            model.warmup()
            model.encode_texts(["a very long text " * 100])
    assert [str(warning.message) for warning in caught] == []
    assert caplog.records == []
    assert logging.getLogger().handlers == handlers

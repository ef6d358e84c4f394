import json
from pathlib import Path
from typing import Any

import open_clip
import pytest

from serve_app.errors import ModelLoadError
from serve_app.models.open_clip_architecture import image_preprocess, resolve_architecture
from tests.tiny_open_clip import CLIP_CONFIG, SIGLIP_CONFIG, write_config


def write(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B/32"])
def test_built_in_names_are_taken_as_open_clip_takes_them(name: str) -> None:
    architecture = resolve_architecture(name)
    assert architecture.name == "ViT-B-32"
    assert architecture.builtin
    assert architecture.model == open_clip.get_model_config("ViT-B-32")


def test_unknown_name_is_refused_with_close_ones() -> None:
    with pytest.raises(ModelLoadError, match="ViT-B-32"):
        resolve_architecture("VitB32")


def test_bare_and_hub_style_files(tmp_path: Path) -> None:
    bare = resolve_architecture(write(tmp_path / "a.json", CLIP_CONFIG))
    assert bare.model == CLIP_CONFIG
    assert not bare.builtin
    assert bare.preprocess == {}
    hub = {"model_cfg": CLIP_CONFIG, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    styled = resolve_architecture(write(tmp_path / "b.json", hub))
    assert styled.model == CLIP_CONFIG
    assert styled.preprocess == {"mean": [0.5, 0.5, 0.5]}
    write(tmp_path / "open_clip_config.json", hub)
    assert resolve_architecture(str(tmp_path)).preprocess == styled.preprocess


def test_files_of_one_name_do_not_collide(tmp_path: Path) -> None:
    before = open_clip.list_models()
    paths = [
        write(tmp_path / folder / "same.json", {**CLIP_CONFIG, "embed_dim": size})
        for folder, size in (("a", 8), ("b", 16))
    ]
    first, second = (resolve_architecture(path) for path in paths)
    assert (first.model["embed_dim"], second.model["embed_dim"]) == (8, 16)
    assert open_clip.list_models() == before


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = write_config(tmp_path / "model", SIGLIP_CONFIG)
    text = resolve_architecture(str(path)).text
    assert text["hf_tokenizer_name"] == str(tmp_path / "model" / "tokenizer")
    config = {
        **CLIP_CONFIG,
        "text_cfg": {"tokenizer_kwargs": {"bpe_path": "words.gz"}, "hf_tokenizer_name": "org/hub"},
    }
    text = resolve_architecture(write(tmp_path / "words" / "tiny.json", config)).text
    assert text["tokenizer_kwargs"]["bpe_path"] == str(tmp_path / "words" / "words.gz")
    assert text["hf_tokenizer_name"] == "org/hub"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "embed_dim"),
        ('{"model_cfg": 3}', "embed_dim"),
        ('{"embed_dim": 8, "vision_cfg": {}}', "text_cfg"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ModelLoadError, match=message):
        resolve_architecture(str(path))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.json"):
        resolve_architecture(str(tmp_path / "nowhere.json"))
    with pytest.raises(ModelLoadError, match=r"open_clip_config\.json"):
        resolve_architecture(str(tmp_path))


def test_preprocessing_is_merged_over_open_clips_defaults() -> None:
    plain = image_preprocess({"size": 32})
    assert plain.size == (32, 32)
    assert plain.mean == open_clip.OPENAI_DATASET_MEAN
    assert (plain.resize_mode, plain.interpolation, plain.fill_color) == ("shortest", "bicubic", 0)
    tag = {"mean": [0.5] * 3, "std": (0.5,) * 3, "resize_mode": "squash", "url": "unrelated"}
    merged = image_preprocess(tag, {"resize_mode": "longest"}, {"size": (32, 48)})
    assert merged.size == (32, 48)
    assert merged.mean == (0.5, 0.5, 0.5)
    assert merged.resize_mode == "longest"

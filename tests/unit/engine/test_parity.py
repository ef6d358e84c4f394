"""The parity gate, in the loader as it stands there."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.parity import GoldenPair
from serve_app.engine.loading import LoadedModel, model_loader
from serve_app.engine.parity import UNCHECKED, golden_scores
from serve_app.engine.pool import ModelPool
from serve_app.errors import ConfigError, ModelLoadError, ParityError
from serve_app.models.factory import SimilarityModelFactory
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry, ResolvedModel
from tests.integration.support import drawing
from tests.tiny_open_clip import CLIP_CONFIG, write_config, write_weights
from tests.unit.engine.conftest import resolved
from tests.unit.engine.test_loading import OneModel

IMAGE = base64.b64encode(drawing(size=(64, 48))).decode()
TEXTS = ("a red circle", "a blue square", "a green star")


def load(**changes: Any) -> LoadedModel:
    return model_loader(SimilarityModelFactory())(resolved(**changes))


def recorded(*metrics: str, backend: str = "FakeDualEncoder") -> list[dict[str, Any]]:
    """Golden pairs with the scores that the fake gives."""
    asked = [
        GoldenPair(image=IMAGE, text=text, scores=dict.fromkeys(metrics, 0.0)) for text in TEXTS
    ]
    model = load(backend=backend).model
    return [
        {"image": IMAGE, "text": pair.text, "scores": scores}
        for pair, scores in zip(asked, golden_scores(model, asked, "fake"), strict=True)
    ]


def test_a_model_that_gives_its_golden_scores_is_loaded_without_a_note():
    pairs = recorded("cosine", "logit", "clipscore")
    # The prefix of clipscore is part of the metric, so it is not 2.5 times the cosine.
    assert pairs[0]["scores"]["clipscore"] != pytest.approx(2.5 * pairs[0]["scores"]["cosine"])
    assert load(parity={"pairs": pairs, "tolerance": 1e-6}).note is None
    assert load().note == UNCHECKED


def test_a_model_that_drifts_is_refused_and_told_by_how_much():
    parity = {"pairs": recorded("cosine"), "tolerance": 0.02}
    assert load(parity=parity, options={"drift": 0.01}).note is None
    with pytest.raises(
        ParityError, match=r"3 of 3 golden scores are further than 0\.02"
    ) as refused:
        load(parity=parity, options={"drift": 0.05})
    assert re.search(r"'a \w+ \w+': cosine was \S+ and is \S+ \(0\.05 away\)", refused.value.detail)


def test_what_is_no_number_never_passes():
    pairs = recorded("cosine")
    with pytest.raises(ParityError, match="1 of 3"):
        load(parity={"pairs": pairs, "tolerance": 1e9}, options={"nan_text": TEXTS[1]})


def test_pair_scorers_and_more_pairs_than_a_batch():
    pairs = recorded("match", backend="FakePairScorer") * 3
    parity = {"pairs": pairs, "tolerance": 1e-6}
    loaded = load(backend="FakePairScorer", parity=parity, performance={"max_batch": 2})
    assert max(loaded.model.image_batches) == 2


def test_an_image_with_many_texts_is_computed_once():
    pairs = recorded("cosine", "clipscore")
    loaded = load(parity={"pairs": pairs, "tolerance": 1e-6})
    assert loaded.model.image_batches[-1] == 1
    assert len(loaded.model.text_batches[-1]) == 2 * len(pairs), "clipscore has texts of its own"


def test_no_more_than_the_worst_are_told():
    parity = {"pairs": recorded("cosine", "logit"), "tolerance": 0.01}
    with pytest.raises(ParityError, match="6 of 6") as refused:
        load(parity=parity, options={"drift": 0.1})
    told = refused.value.detail
    assert told.count("logit was") == 3, "ten times the cosine's distance"
    assert "cosine was" not in told


def test_a_model_that_drifts_is_unloaded():
    factory = OneModel()
    parity = {"pairs": recorded("cosine")}
    with pytest.raises(ParityError):
        model_loader(factory)(resolved(parity=parity, options={"drift": 0.1}))
    assert factory.made.unloads == 1


async def test_a_model_that_drifts_is_never_in_the_pool():
    pool = ModelPool(model_loader(SimilarityModelFactory()))
    drifting = resolved(parity={"pairs": recorded("cosine")}, options={"drift": 0.1})
    for background in (True, False):
        pool.retry(drifting.id)
        with pytest.raises(ParityError, match="3 of 3"):
            async with pool.lease(drifting, background=background):
                pass
    assert pool.resident() == ()
    state = pool.states()[drifting.id]
    assert state.state == "failed"
    assert state.reason is not None
    assert "golden" in state.reason


async def test_the_pool_tells_that_nothing_checked_a_models_scores():
    pool = ModelPool(model_loader(SimilarityModelFactory()))
    checked = resolved("checked", parity={"pairs": recorded("cosine")})
    for model in (checked, resolved("unchecked")):
        async with pool.lease(model):
            pass
    assert pool.notes() == {resolved("unchecked").id: UNCHECKED}
    await pool.close()


def test_a_real_model_is_held_to_its_scores_and_files(tmp_path: Path):
    """One of open_clip: what it gave before, with other weights, and with other preprocessing."""
    write_config(tmp_path, CLIP_CONFIG, "clip")
    weights = tmp_path / "clip.safetensors"
    write_weights(weights, CLIP_CONFIG)
    fields: dict[str, Any] = {
        "architecture": str(tmp_path / "clip.json"),
        "pretrained": str(weights),
    }

    def declared(**changes: Any) -> ResolvedModel:
        registry = DynamicModelRegistry({"default": PoolPlacement()})
        return registry.update(Document({"a": {**fields, **changes}}, Origin("m"))).models["a"]

    def gate(model: ResolvedModel) -> LoadedModel:
        return model_loader(SimilarityModelFactory())(model)

    asked = [
        GoldenPair(image=IMAGE, text=text, scores={"cosine": 0.0, "clipscore": 0.0})
        for text in TEXTS
    ]
    given = golden_scores(gate(declared()).model, asked, "a")
    parity = {
        "tolerance": 1e-4,
        "pairs": [
            {"image": IMAGE, "text": pair.text, "scores": scores}
            for pair, scores in zip(asked, given, strict=True)
        ],
    }
    right = declared(parity=parity)
    assert gate(right).note is None
    with pytest.raises(ParityError, match="of 6 golden scores"):
        gate(declared(parity=parity, preprocessing={"mean": [0.9, 0.1, 0.5]}))
    write_weights(weights, CLIP_CONFIG, seed=1)
    with pytest.raises(ModelLoadError, match=f"{right.id}: its files have changed since"):
        gate(right)
    with pytest.raises(ParityError, match="6 of 6 golden scores"):
        gate(declared(parity=parity))


def test_pairs_of_a_file_have_images_beside_it(tmp_path: Path):
    (tmp_path / "drawing.png").write_bytes(base64.b64decode(IMAGE))
    pairs = [pair | {"image": "drawing.png"} for pair in recorded("cosine")]
    file = tmp_path / "golden.yaml"
    file.write_text(yaml.safe_dump({"tolerance": 0.001, "pairs": pairs}))
    assert load(parity={"file": str(file)}).note is None
    with pytest.raises(ParityError, match=r"further than 0\.001"):
        load(parity={"file": str(file)}, options={"drift": 0.01})
    assert load(parity={"file": str(file), "tolerance": 0.5}, options={"drift": 0.01}).note is None


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        ({"scores": {"beauty": 1.0}}, "ask for beauty; it has cosine"),
        ({"image": "nowhere.png"}, "nowhere.png"),
        ({"image": "bm90IGFuIGltYWdl"}, "golden image"),
        ({"image": "folder/drawing"}, r"has a dot in it, as in \./image"),
        ({"text": " "}, "golden text ' ' cannot be scored"),
    ],
)
def test_a_golden_pair_that_cannot_be_scored_is_told(pair: dict[str, Any], told: str):
    pairs = [{"image": IMAGE, "text": "a", "scores": {"cosine": 0.0}} | pair]
    with pytest.raises(ParityError, match=told):
        load(parity={"pairs": pairs})


@pytest.mark.parametrize(
    ("parity", "told"),
    [
        ({}, "give `pairs`, or a `file`"),
        ({"file": "/nowhere/golden.yaml"}, "/nowhere/golden.yaml"),
        ({"file": "{file}"}, "pairs"),
        ({"pairs": [{"image": IMAGE, "text": "a"}]}, "scores"),
        ({"pairs": [{"image": IMAGE, "text": "a", "scores": {}}]}, "scores"),
        ({"pairs": [], "file": "{file}", "tolerence": 1}, "tolerence"),
    ],
)
def test_faults_are_told_before_anything_is_loaded(
    parity: dict[str, Any], told: str, tmp_path: Path
):
    file = tmp_path / "golden.yaml"
    file.write_text("pairs: []\n")
    filled = {key: str(file) if value == "{file}" else value for key, value in parity.items()}
    spec = {"backend": "serve_app.testing:FakeDualEncoder", "parity": filled}
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    with pytest.raises(ConfigError) as refused:
        registry.update(Document({"a": spec}, Origin("models")))
    assert told in str(refused.value)
    assert all(fault.key.startswith("models.a.parity") for fault in refused.value.faults)


def test_neither_rollout_nor_deadline_nor_golden_scores_change_the_revision():
    registry = DynamicModelRegistry({"default": PoolPlacement()})
    spec = {"backend": "serve_app.testing:FakeDualEncoder"}
    before = registry.update(Document({"a": spec}, Origin("models")))
    changes = {"rollout": "recreate", "load_timeout_s": 5, "parity": {"pairs": recorded("cosine")}}
    after = registry.update(Document({"a": {**spec, **changes}}, Origin("models")))
    assert after.models["a"].id == before.models["a"].id
    assert after.version == before.version + 1

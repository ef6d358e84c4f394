from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.defaults import default_document
from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.config.sources import EnvironmentSource
from serve_app.errors import ConfigError, Fault, UnknownModelError
from serve_app.models.placement import PoolPlacement
from serve_app.models.registry import DynamicModelRegistry, ResolvedModel, diff

POOLS = {
    "default": PoolPlacement("cpu", 1),
    "amx": PoolPlacement("cpu", 4, fast_bf16=True),
    "gpu": PoolPlacement("cuda", 2),
}
RANDOM = {"architecture": "ViT-B-32", "pretrained": "random", "allow_random_weights": True}


def document(**models: Any) -> Document:
    return Document(models, Origin("SIMILARITY_MODELS"))


def registry() -> DynamicModelRegistry:
    return DynamicModelRegistry(POOLS)


def one(**fields: Any) -> ResolvedModel:
    return registry().update(document(fast={**RANDOM, **fields})).models["fast"]


def refused(declared: Document) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        registry().update(declared)
    keys = [fault.key for fault in caught.value.faults]
    assert len(keys) == len(set(keys))
    return {fault.key: fault.message for fault in caught.value.faults}


def test_the_revision_of_a_known_spec_never_changes() -> None:
    """Ids stand in logs, clients and caches: a change here is a change for all of them."""
    assert one().id == "fast@efd51608"


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "RN50"},
        {"pretrained": "openai"},
        {"seed": 1},
        {"precision": "bf16"},
        {"pool": "amx"},  # resolves auto to bf16
        {"pool": "gpu"},
        {"preprocessing": {"size": 112}},
        {"primary": "logit"},
        {"options": {"quick_gelu": True}},
    ],
)
def test_what_changes_a_score_changes_the_revision(fields: dict[str, Any]) -> None:
    assert one(**fields).revision != one().revision


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "fp32"},  # what auto resolves to
        {"device": "cpu"},
        {"pool": "amx", "precision": "fp32"},
        {"preload": True},
        {"performance": {"bytes": 5, "max_batch": 2, "expected_ms": 1.5}},
        {"architecture": "ViT-B/32"},
        {"preprocessing": {"size": None}},
    ],
)
def test_what_changes_no_score_keeps_the_revision(fields: dict[str, Any]) -> None:
    assert one(**fields).revision == one().revision


def test_the_name_is_not_in_the_revision() -> None:
    models = registry().update(document(a=RANDOM, b=RANDOM)).models
    assert models["a"].revision == models["b"].revision
    assert models["a"].id != models["b"].id


def test_the_seed_of_trained_weights_changes_nothing() -> None:
    assert one(pretrained="openai", seed=1).revision == one(pretrained="openai").revision


@pytest.mark.parametrize(
    ("fields", "device", "precision", "threads"),
    [
        ({}, "cpu", "fp32", 1),
        ({"pool": "amx"}, "cpu", "bf16", 4),
        ({"pool": "gpu"}, "cuda", "bf16", 2),
        ({"pool": "gpu", "precision": "fp16"}, "cuda", "fp16", 2),
        ({"pool": "gpu", "device": "cpu"}, "cpu", "fp32", 2),
    ],
)
def test_nothing_is_left_on_auto(
    fields: dict[str, Any], device: str, precision: str, threads: int
) -> None:
    placement = one(**fields).placement
    assert (placement.device, placement.precision, placement.threads) == (
        device,
        precision,
        threads,
    )


def test_every_fault_in_a_document_is_named_with_its_key() -> None:
    found = refused(
        document(
            **{
                "Fast": RANDOM,
                "typo": {**RANDOM, "precison": "fp32", "seed": "x"},
                "nowhere": {**RANDOM, "pool": "gpus"},
                "cuda": {**RANDOM, "device": "cuda"},
                "half": {**RANDOM, "precision": "fp16"},
                "backend": {**RANDOM, "backend": "open_klip"},
                "arch": {"architecture": "ViT-B-33", "pretrained": "openai", "pool": "gpus"},
                "rnd": {**RANDOM, "allow_random_weights": False},
                "empty": None,
                "a-b": RANDOM,
                "a.b": RANDOM,
            }
        )
    )
    prefix = "SIMILARITY_MODELS."
    assert set(found) == {
        f"{prefix}{key}"
        for key in (
            "Fast",
            "typo.precison",
            "typo.seed",
            "nowhere.pool",
            "cuda.device",
            "half.precision",
            "backend.backend",
            "arch.architecture",
            "arch.pool",
            "rnd.pretrained",
            "empty",
            "a.b",
        )
    }
    assert "lower-case letters" in found[f"{prefix}Fast"]
    assert "did you mean 'precision'?" in found[f"{prefix}typo.precison"]
    assert "did you mean 'gpu'?" in found[f"{prefix}nowhere.pool"]
    assert "declared are: default, amx, gpu" in found[f"{prefix}nowhere.pool"]
    assert "pools with a GPU are: gpu" in found[f"{prefix}cuda.device"]
    assert "overflows" in found[f"{prefix}half.precision"]
    assert "did you mean 'open_clip'?" in found[f"{prefix}backend.backend"]
    assert "'a-b'" in found[f"{prefix}a.b"]


def test_faults_found_while_reading_are_named_with_the_others() -> None:
    environ = {
        "SIMILARITY_MODELS": "fast: {pool: gpu, pool: amx}\n3: {}\nslow: 5\n",
        "SIMILARITY_MODELS__FAST__PRECISION": "fp23",
        "SIMILARITY_MODELS__FAST__PERFORMANCE__MAX_BATCH": "many",
        "SIMILARITY_MODELS__FST__POOL": "gpu",
        "SIMILARITY_MODLES": "x",
    }
    with pytest.raises(ConfigError) as caught:
        registry().update(EnvironmentSource(environ).read())
    assert {fault.key for fault in caught.value.faults} == {
        "SIMILARITY_MODELS.fast.pool",
        "SIMILARITY_MODELS.fast.architecture",
        "SIMILARITY_MODELS.fast.pretrained",
        "SIMILARITY_MODELS.3",
        "SIMILARITY_MODELS.3.architecture",
        "SIMILARITY_MODELS.3.pretrained",
        "SIMILARITY_MODELS.slow",
        "SIMILARITY_MODELS__FAST__PRECISION",
        "SIMILARITY_MODELS__FAST__PERFORMANCE__MAX_BATCH",
        "SIMILARITY_MODELS__FST__ARCHITECTURE",
        "SIMILARITY_MODELS__FST__PRETRAINED",
        "SIMILARITY_MODLES",
    }


def test_a_field_at_fault_hides_no_other_fault_and_invents_none() -> None:
    several = {
        "architecture": "ViT-B-33",
        "pretrained": 7,
        "precison": "fp32",
        "performance": {"max_batch": 0, "bytez": 1},
        "pool": "nowhere",
    }
    found = refused(document(fast=several))
    assert set(found) == {
        "SIMILARITY_MODELS.fast." + key
        for key in (
            "architecture",
            "pretrained",
            "precison",
            "performance.max_batch",
            "performance.bytez",
            "pool",
        )
    }
    assert set(refused(document(fast={**RANDOM, "allow_random_weights": "?", "pool": 1}))) == {
        "SIMILARITY_MODELS.fast.allow_random_weights",
        "SIMILARITY_MODELS.fast.pool",
    }
    assert set(refused(document(fast={"backend": 5}))) == {"SIMILARITY_MODELS.fast.backend"}
    gpu_only = {**RANDOM, "pool": 3, "device": "cuda", "precision": "fp16"}
    assert set(refused(document(fast=gpu_only))) == {"SIMILARITY_MODELS.fast.pool"}


def test_a_document_without_models_is_a_fault() -> None:
    assert "declares no model" in refused(document())["SIMILARITY_MODELS"]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_options_must_be_json(value: Any) -> None:
    found = refused(document(fast={**RANDOM, "options": {"quick_gelu": value}}))
    assert "JSON" in found["SIMILARITY_MODELS.fast.options"]


@pytest.mark.parametrize("name", ["Fast", "-fast", "fast@1", "fast model", "f" * 64, "", "fast\n"])
def test_names_follow_the_rule(name: str) -> None:
    found = refused(document(**{name: RANDOM}))
    assert "1 to 63 lower-case letters" in found[f"SIMILARITY_MODELS.{name}"]


def test_an_invalid_document_changes_nothing() -> None:
    models = registry()
    good = models.update(document(fast=RANDOM))
    with pytest.raises(ConfigError):
        models.update(document(fast={**RANDOM, "seed": 1}, slow={}))
    assert models.snapshot is good
    assert models.history == (good,)


def test_equal_content_is_the_same_snapshot() -> None:
    models = registry()
    assert models.snapshot is None
    first = models.update(document(fast=RANDOM))
    again = models.update(document(fast={**RANDOM, "seed": 0, "precision": "auto"}))
    assert again is first
    second = models.update(document(fast={**RANDOM, "seed": 1}))
    assert (first.version, second.version) == (1, 2)
    assert models.history == (first, second)


def test_replaced_weights_are_a_new_revision(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    declared = document(fast={"architecture": "ViT-B-32", "pretrained": str(weights)})
    models = registry()
    absent = models.update(declared)
    assert absent.notices[0].key == "SIMILARITY_MODELS.fast.pretrained"
    weights.write_bytes(b"one")
    first = models.update(declared)
    assert first.notices == ()
    weights.write_bytes(b"other")
    second = models.update(declared)
    assert len({item.models["fast"].revision for item in (absent, first, second)}) == 3
    assert models.update(declared) is second


def test_snapshots_pickle_and_cannot_be_changed() -> None:
    snapshot = registry().update(document(demo=RANDOM, fast={**RANDOM, "pool": "gpu"}))
    copy = pickle.loads(pickle.dumps(snapshot))
    assert copy == snapshot
    assert copy.resolve("fast").id == snapshot.resolve("fast").id
    assert len({*copy.models.values(), *snapshot.models.values()}) == 2
    with pytest.raises(TypeError):
        copy.models["x"] = copy.resolve()


def test_what_a_request_means() -> None:
    snapshot = registry().update(document(first=RANDOM, demo={**RANDOM, "seed": 1}))
    demo = snapshot.models["demo"]
    assert snapshot.default == "demo"
    assert snapshot.resolve() is snapshot.resolve("demo") is snapshot.resolve(demo.id) is demo
    assert snapshot.by_id(demo.id) is demo
    assert registry().update(document(b=RANDOM, a=RANDOM)).default == "b"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("demmo", "did you mean 'demo'? Declared are: demo, fast."),
        ("zebra", "There is no model 'zebra'. Declared are: demo, fast."),
        ("demo@00000000", "no revision '00000000'; demo@"),
        ("demo@", "no revision ''; demo@"),
        ("zebra@00000000", "There is no model 'zebra'"),
        ("", "There is no model ''"),
    ],
)
def test_unknown_models_are_answered_with_what_there_is(model: str, words: str) -> None:
    snapshot = registry().update(document(demo=RANDOM, fast=RANDOM))
    with pytest.raises(UnknownModelError) as caught:
        snapshot.resolve(model)
    assert words in str(caught.value)


def test_an_id_has_a_revision() -> None:
    snapshot = registry().update(document(demo=RANDOM))
    for model_id in ("demo", "demo@00000000"):
        with pytest.raises(UnknownModelError):
            snapshot.by_id(model_id)


def test_what_is_preloaded_and_what_a_pool_holds() -> None:
    snapshot = registry().update(
        document(
            lazy=RANDOM,
            eager={**RANDOM, "preload": True, "pool": "gpu"},
            demo=RANDOM,
        )
    )
    assert [model.name for model in snapshot.preloaded()] == ["demo", "eager"]
    assert [model.name for model in snapshot.for_pool("default")] == ["lazy", "demo"]
    assert [model.name for model in snapshot.for_pool("gpu")] == ["eager"]
    assert snapshot.for_pool("amx") == ()


def test_what_differs_between_snapshots() -> None:
    models = registry()
    old = models.update(document(gone=RANDOM, same=RANDOM, moved=RANDOM, other=RANDOM))
    new = models.update(
        document(
            same=RANDOM,
            moved={**RANDOM, "preload": True},
            other={**RANDOM, "seed": 1},
            fresh=RANDOM,
        )
    )
    found = diff(old, new)
    assert (found.added, found.removed) == (("fresh",), ("gone",))
    assert (found.changed, found.adjusted) == (("other",), ("moved",))
    assert not diff(new, new)
    assert diff(None, new).added == tuple(new.models)


def test_the_default_document_is_valid() -> None:
    """The default document is taken as it is, wherever the package lies."""
    declared = default_document()
    if not Path(declared.models["demo"]["architecture"]).is_file():
        pytest.skip("the demo models are not trained yet")
    snapshot = registry().update(declared)
    assert snapshot.default == "demo"
    assert [model.name for model in snapshot.preloaded()] == ["demo", "demo-lite"]
    assert snapshot.notices == ()


HALVES = {"experiments": {"test": {"arms": {"fast": 50, "slow": 50}, "shadow": ["shade"]}}}
FOUR = {name: {**RANDOM, "seed": n} for n, name in enumerate(("first", "fast", "slow", "shade"))}


def routing(**raw: Any) -> RoutingDocument:
    return RoutingDocument(raw, Origin("SIMILARITY_ROUTING"))


def test_the_default_is_what_routing_says() -> None:
    for raw, wanted in (
        ({}, "first"),
        ({"default": "slow"}, "slow"),
        ({"default": "a", "aliases": {"a": "shade"}}, "shade"),
        ({"default": "test", **HALVES}, "fast"),
    ):
        snapshot = registry().update(document(**FOUR), routing(**raw))
        assert snapshot.default == wanted
        assert snapshot.resolve().name == wanted
        assert snapshot.preloaded()[0].name == wanted
    arms = {"experiments": {"test": {"arms": {"fast": 0, "slow": 100}}}, "default": "test"}
    assert registry().update(document(**FOUR), routing(**arms)).default == "slow"


def test_what_is_routed_is_preloaded() -> None:
    models = {**FOUR, "eager": {**RANDOM, "preload": True}, "idle": RANDOM}
    snapshot = registry().update(document(**models), routing(**HALVES))
    assert [model.name for model in snapshot.preloaded()] == [
        "first",
        "fast",
        "slow",
        "shade",
        "eager",
    ]


def test_snapshots_pickle_with_their_routing() -> None:
    snapshot = registry().update(document(**FOUR), routing(**HALVES))
    copy = pickle.loads(pickle.dumps(snapshot))
    assert copy == snapshot
    assert copy.routing == snapshot.routing
    assert copy != registry().update(document(**FOUR))
    assert registry().update(document(**FOUR)).routing is None


def test_a_change_of_routing_alone_is_a_new_version() -> None:
    models = registry()
    first = models.update(document(**FOUR), routing(**HALVES))
    assert models.update(document(**FOUR), routing(**HALVES)) is first
    turned = {"experiments": {"test": {"arms": {"slow": 50, "fast": 50}, "shadow": ["shade"]}}}
    second = models.update(document(**FOUR), routing(**turned))  # another control
    assert (first.version, second.version) == (1, 2)
    assert models.update(document(**FOUR)).version == 3


def test_faults_of_models_and_routing_are_named_together_and_nothing_changes() -> None:
    models = registry()
    good = models.update(document(**FOUR), routing(**HALVES))
    bad = {**FOUR, "slow": {"precison": "fp32"}}
    with pytest.raises(ConfigError) as caught:
        models.update(document(**bad), routing(default="fats", experiments={"x": {"arms": {}}}))
    keys = [fault.key for fault in caught.value.faults]
    assert "SIMILARITY_MODELS.slow.precison" in keys
    assert "SIMILARITY_ROUTING.default" in keys
    assert "SIMILARITY_ROUTING.experiments.x.arms" in keys
    assert models.snapshot is good
    # A model at fault is declared all the same: routing to it is no fault of its own.
    with pytest.raises(ConfigError) as caught:
        models.update(document(**bad), routing(**HALVES))
    assert all("ROUTING" not in fault.key for fault in caught.value.faults)


def test_without_models_the_routing_is_not_blamed_for_naming_them() -> None:
    unreadable = RoutingDocument({}, Origin("x"), (Fault("SIMILARITY_ROUTING", "is empty"),))
    for declared, keys in (
        (routing(**HALVES), ["SIMILARITY_MODELS"]),
        (unreadable, ["SIMILARITY_MODELS", "SIMILARITY_ROUTING"]),
    ):
        with pytest.raises(ConfigError) as caught:
            registry().update(document(), declared)
        assert [fault.key for fault in caught.value.faults] == keys

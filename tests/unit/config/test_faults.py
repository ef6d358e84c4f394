from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from serve_app.config.args import AppArgs
from serve_app.config.faults import pydantic_faults, suggestion
from serve_app.config.spec import ModelSpec


def found(model: type[Any], raw: Any, prefix: str = "x") -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(raw)
    return {fault.key: fault.message for fault in pydantic_faults(caught.value, prefix, model)}


@pytest.mark.parametrize(
    ("raw", "key", "message"),
    [
        ({"precison": "fp32"}, "x.precison", "unknown key; did you mean 'precision'?"),
        ({"precision": "fp23"}, "x.precision", "did you mean 'fp32'?"),
        ({"precision": "int8"}, "x.precision", "must be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"pretrained": 7}, "x.pretrained", "must be a string, not 7; put it in quotes"),
        ({"pretrained": False}, "x.pretrained", "must be a string, not false; put it in quotes"),
        ({"pool": None}, "x.pool", "must be a string, not null"),
        ({"seed": -1}, "x.seed", "must be at least 0, not -1"),
        ({"seed": "many"}, "x.seed", "must be a whole number, not 'many'"),
        ({"preload": "perhaps"}, "x.preload", "must be true or false, not 'perhaps'"),
        ({"sha256": "abc"}, "x.sha256", "'abc' does not match ^[0-9a-f]{64}$"),
        ({"performance": 8}, "x.performance", "must be a mapping of keys to values, not 8"),
        ({"performance": {"max_batch": 0}}, "x.performance.max_batch", "at least 1, not 0"),
        ({"performance": {"maxbatch": 8}}, "x.performance.maxbatch", "did you mean 'max_batch'?"),
        ({"performance": {"expected_ms": float("inf")}}, "x.performance.expected_ms", "finite"),
        ({"preprocessing": {"size": "big"}}, "x.preprocessing.size", "a whole number or a list"),
        ({"preprocessing": {"mean": [0, "a", 0]}}, "x.preprocessing.mean.1", "must be a number"),
        ("text", "x", "must be a mapping of keys to values, not 'text'"),
        (None, "x", "must be a mapping of keys to values, not null"),
    ],
)
def test_specs_faults_are_for_people(raw: Any, key: str, message: str) -> None:
    faults = found(ModelSpec, raw)
    assert list(faults) == [key]
    assert message in faults[key]


@pytest.mark.parametrize(
    ("raw", "key", "message"),
    [
        ({"pools": [{"gpus": "all"}]}, "x.pools.0.gpus", "must be a number or 'auto', not 'all'"),
        ({"pools": [{"gpus": 1.5}]}, "x.pools.0.gpus", "a fraction below 1"),
        (
            {"pools": [{}, {"name": "b", "replicas": {"min_replica": 1}}]},
            "x.pools.1.replicas.min_replica",
            "did you mean 'min_replicas'?",
        ),
        ({"pools": [{"name": "a"}, {"name": "a"}]}, "x.pools", "named twice: a"),
        ({"pools": []}, "x.pools", "at least one pool"),
        ({"limits": {"max_pair": 1}}, "x.limits.max_pair", "did you mean 'max_pairs'?"),
        (
            {"zebra": 1},
            "x.zebra",
            "unknown key; known are: access_log, control, ingress, limits, log_format",
        ),
    ],
)
def test_arguments_faults_have_no_trace_of_unions(raw: Any, key: str, message: str) -> None:
    faults = found(AppArgs, raw)
    assert list(faults) == [key]
    assert message in faults[key]


def test_without_a_prefix_keys_stand_alone() -> None:
    assert list(found(AppArgs, {"zebra": 1}, "")) == ["zebra"]
    assert list(found(AppArgs, 3, "")) == ["AppArgs"]


def test_long_values_are_cut() -> None:
    message = found(ModelSpec, {"precision": "x" * 10_000})["x.precision"]
    assert len(message) < 200


def test_suggestions_do_not_mind_case() -> None:
    assert suggestion("vit-b-32", ["ViT-B-32", "RN50"]) == "; did you mean 'ViT-B-32'?"
    assert suggestion("zebra", ["ViT-B-32", "RN50"]) == ""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from serve_app.config.routing_spec import ExperimentSpec, GuardrailSpec, RoutingSpec

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def section() -> str:
    found = re.search(r"^## Routing$(.*?)(?=^## )", DOCUMENT.read_text(), re.M | re.S)
    assert found
    return found[1]


def experiment(**fields: Any) -> ExperimentSpec:
    return ExperimentSpec.model_validate({"arms": {"fast": 90, "accurate": 10}, **fields})


def refused(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        experiment(**fields)
    return str(caught.value)


def test_the_documents_example_is_a_spec() -> None:
    example = re.search(r"```yaml\n(.*?)```", section(), re.S)
    assert example
    spec = RoutingSpec.model_validate(yaml.safe_load(example[1]))
    assert spec.default == "fast"
    assert spec.aliases == {"cheap": "fast"}
    assert spec.experiments == {
        "so400m": ExperimentSpec(
            arms={"fast": 90, "accurate": 10},
            sticky_by="routing_key",
            shadow=("accurate",),
            threshold=0.28,
            guardrails=GuardrailSpec(
                max_error_rate=0.02, max_p95_ratio=2.0, max_psi=0.25, min_count=200
            ),
        )
    }


@pytest.mark.parametrize("model", [RoutingSpec, ExperimentSpec, GuardrailSpec])
def test_every_field_is_documented(model: Any) -> None:
    for name in model.model_fields:
        assert f"`{name}`" in section(), name


def test_everything_can_be_left_out_but_the_arms() -> None:
    assert RoutingSpec.model_validate({}) == RoutingSpec(default=None, aliases={}, experiments={})
    spec = experiment()
    assert (spec.sticky_by, spec.shadow, spec.threshold) == ("routing_key", (), None)
    assert spec.guardrails.model_dump() == {
        "max_error_rate": None,
        "max_p95_ratio": None,
        "max_psi": None,
        "min_count": 200,
    }
    with pytest.raises(ValidationError, match="arms"):
        ExperimentSpec.model_validate({})


def test_the_first_arm_is_the_control_whatever_its_name_or_weight() -> None:
    spec = experiment(arms={"z": 0, "a": 100})
    assert list(spec.arms) == ["z", "a"]
    assert spec.control == "z"


def test_headers_are_lower_case() -> None:
    assert experiment(sticky_by="header:X-User-Id").header == "x-user-id"
    assert experiment(sticky_by="text").header is None


@pytest.mark.parametrize("sticky_by", ["routing_key", "header:a", "text", "image", "random"])
def test_what_an_experiment_can_be_sticky_by(sticky_by: str) -> None:
    assert experiment(sticky_by=sticky_by).sticky_by == sticky_by


@pytest.mark.parametrize("sticky_by", ["", "header:", "header:a b", "header", "Text", "header:a\n"])
def test_what_an_experiment_cannot_be_sticky_by(sticky_by: str) -> None:
    assert "must be routing_key, header:NAME, text, image or random" in refused(sticky_by=sticky_by)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({}, "names no arm"),
        ({"a": 99}, "must sum to 100 percent, not to 99"),
        ({"a": 100, "b": 1e-5}, "must sum to 100"),
        ({"a": 110, "b": -10}, "greater than or equal to 0"),
        ({"a": float("nan")}, "finite"),
        ({"a": float("inf")}, "finite"),
        ({"a": "100"}, "valid number"),
        ({"a": True}, "valid number"),
        ({"Upper": 100}, "pattern"),
        (["a"], "dict"),
    ],
)
def test_arms_that_are_refused(arms: Any, message: str) -> None:
    assert message in refused(arms=arms)


@pytest.mark.parametrize(
    "arms", [{"a": 100}, {"a": 33.3, "b": 33.3, "c": 33.4}, {"a": 100 - 5e-7}, {"a": 100, "b": 0}]
)
def test_arms_that_are_accepted(arms: dict[str, float]) -> None:
    assert experiment(arms=arms).arms == arms


@pytest.mark.parametrize(
    ("field", "bad", "good"),
    [
        ("max_error_rate", [-0.1, 1.1, "0.1", float("nan")], [0, 1, 0.5, None]),
        ("max_p95_ratio", [0, -1, float("inf")], [0.1, 2, None]),
        ("max_psi", [0, -1, float("inf")], [0.1, 2, None]),
        ("min_count", [0, -1, 1.5, None], [1, 200]),
        ("max_latency", [1], []),
    ],
)
def test_bounds_of_guardrails(field: str, bad: list[Any], good: list[Any]) -> None:
    for value in good:
        assert getattr(GuardrailSpec.model_validate({field: value}), field) == value
    for value in bad:
        with pytest.raises(ValidationError):
            GuardrailSpec.model_validate({field: value})


def test_a_shadow_is_named_once_and_may_be_an_arm() -> None:
    assert experiment(shadow=["accurate", "other"]).shadow == ("accurate", "other")
    assert "names 'a' twice" in refused(shadow=["a", "b", "a"])
    assert "pattern" in refused(shadow=["A"])

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.faults import Origin
from serve_app.config.routing_source import FileRoutingSource, RoutingDocument
from serve_app.config.text import parse_mapping
from serve_app.errors import ConfigError, Fault
from serve_app.routing.build import build_routing
from serve_app.routing.table import RoutingTable

MODELS = ("fast", "accurate", "other")
ORIGIN = Origin("SIMILARITY_ROUTING")

EXAMPLE = """
default: fast
aliases: {cheap: fast}
experiments:
  so400m: {arms: {fast: 90, accurate: 10}, shadow: [accurate]}
"""


def build(text: str, **arguments: Any) -> RoutingTable:
    document = RoutingDocument(parse_mapping(text, ORIGIN).value, ORIGIN)
    return build_routing(document, MODELS, "fast", **arguments)


def refused(text: str, **arguments: Any) -> list[tuple[str, str]]:
    """Keys (less the origin) and messages of every fault."""
    with pytest.raises(ConfigError) as caught:
        build(text, **arguments)
    return [
        (fault.key.removeprefix("SIMILARITY_ROUTING."), fault.message)
        for fault in caught.value.faults
    ]


def experiment(fields: str) -> str:
    return f"experiments: {{x: {{{fields}}}}}"


def test_the_example_is_sound() -> None:
    built = build(EXAMPLE)
    assert built.models == MODELS
    assert built.default == built.spec.default == "fast"
    assert built.spec.experiments["so400m"].arms == {"fast": 90, "accurate": 10}


def test_no_document_is_the_registrys_default() -> None:
    built = build_routing(None, MODELS, "other")
    assert (built.default, built.spec.default, built.spec.experiments) == ("other", "other", {})


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("default: fats", "default", "there is no model 'fats'; did you mean 'fast'?"),
        ("default: zzz", "default", "there is no model 'zzz'; declared are: fast, accurate, other"),
        ("default: fast@1f3a9c20", "default", "does not match"),
        ("default: 5", "default", "must be a string, not 5"),
        ("defaults: fast", "defaults", "unknown key; did you mean 'default'?"),
        ("aliases: [a]", "aliases", "must be a mapping of keys to values"),
        ("aliases: {a: fats}", "aliases.a", "did you mean 'fast'?"),
        ("aliases: {a: 5}", "aliases.a", "must be a string, not 5"),
        ("aliases: {A: fast}", "aliases.A", "does not match"),
        ("aliases: {a: a}", "aliases.a", "leads back to itself: a -> a"),
        ("aliases: {a: b, b: c, c: b}", "aliases.b", "leads back to itself: b -> c -> b"),
        ("aliases: {other: fast}", "aliases.other", "is also a model's name"),
        ("experiments: [x]", "experiments", "must be a mapping of keys to values"),
        ("experiments: null", "experiments", "must be a mapping of keys to values, not null"),
        ("experiments: {x: null}", "experiments.x", "must be a mapping of keys to values"),
        ("experiments: {X: {arms: {fast: 100}}}", "experiments.X", "does not match"),
        ("experiments: {other: {arms: {fast: 100}}}", "experiments.other", "also a model's name"),
        (
            "aliases: {x: fast}\nexperiments: {x: {arms: {fast: 100}}}",
            "experiments.x",
            "is also an alias's name",
        ),
        (experiment("shadow: []"), "experiments.x.arms", "is missing"),
        (experiment("arms: {}"), "experiments.x.arms", "names no arm; at least one is needed"),
        (experiment("arms: [fast]"), "experiments.x.arms", "must be a mapping"),
        (
            experiment("arms: {fast: 99}"),
            "experiments.x.arms",
            "must sum to 100 percent, not to 99",
        ),
        (
            experiment("arms: {fast: 110, other: -10}"),
            "experiments.x.arms.other",
            "must be at least 0",
        ),
        (
            experiment("arms: {fast: .nan}"),
            "experiments.x.arms.fast",
            "must be a finite number, not nan",
        ),
        (experiment("arms: {fast: .inf}"), "experiments.x.arms.fast", "must be a finite number"),
        (experiment('arms: {fast: "100"}'), "experiments.x.arms.fast", "must be a number"),
        (experiment("arms: {fast: true}"), "experiments.x.arms.fast", "must be a number, not true"),
        (
            experiment("arms: {fast: 90, acurate: 10}"),
            "experiments.x.arms.acurate",
            "there is no model 'acurate'; did you mean 'accurate'?",
        ),
        (experiment("arms: {fast: 90, Other: 10}"), "experiments.x.arms.Other", "does not match"),
        (
            "aliases: {cheap: fast}\n" + experiment("arms: {cheap: 100}"),
            "experiments.x.arms.cheap",
            "'cheap' is an alias; name the model it stands for",
        ),
        (
            experiment("arms: {fast: 100}, shadow: [x]"),
            "experiments.x.shadow.0",
            "'x' is an experiment; name a model",
        ),
        (
            experiment("arms: {fast: 100}, shadow: [other, acurate]"),
            "experiments.x.shadow.1",
            "did you mean 'accurate'?",
        ),
        (experiment("arms: {fast: 100}, shadow: other"), "experiments.x.shadow", "must be a list"),
        (
            experiment("arms: {fast: 100}, sticky_by: user"),
            "experiments.x.sticky_by",
            "must be routing_key, header:NAME, text, image or random, not 'user'",
        ),
        (
            experiment("arms: {fast: 100}, treshold: 1"),
            "experiments.x.treshold",
            "unknown key; did you mean 'threshold'?",
        ),
        (
            experiment("arms: {fast: 100}, guardrails: {max_eror_rate: 1}"),
            "experiments.x.guardrails.max_eror_rate",
            "unknown key; did you mean 'max_error_rate'?",
        ),
        (
            experiment("arms: {fast: 100}, guardrails: {max_error_rate: 2}"),
            "experiments.x.guardrails.max_error_rate",
            "must be at most 1",
        ),
        (
            "experiments: {x: {arms: {fast: 100}}, y: {arms: {fast: 50, other: 50}}}",
            "experiments.y.arms",
            "has the same control as 'x', 'fast'",
        ),
    ],
)
def test_a_fault_is_the_only_one_and_has_its_key(text: str, key: str, words: str) -> None:
    found = refused(text)
    assert [name for name, _ in found] == [key]
    assert words in found[0][1]


def test_two_cycles_are_two_faults() -> None:
    found = dict(refused("aliases: {a: b, b: a, c: d, d: c, e: a}"))
    assert found == {
        "aliases.a": "leads back to itself: a -> b -> a",
        "aliases.c": "leads back to itself: c -> d -> c",
    }


def test_an_experiment_at_fault_is_still_a_name() -> None:
    text = "default: x\naliases: {a: x}\n" + experiment("arms: {fast: 99}")
    assert [key for key, _ in refused(text, default_override="a")] == ["experiments.x.arms"]


def test_everything_is_named_at_once() -> None:
    text = """
    default: fats
    aliases: {cheap: fats, loop: loop, other: fast}
    exprments: {}
    experiments:
      a: {arms: {fast: 90, acurate: 10}, shadow: [nothing]}
      b: {arms: {fast: -1, other: 50}, sticky: text}
    """
    found = refused(
        text,
        weights={"a": {"fast": 50}, "zzz": {"fast": 100}},
        default_override="nobody",
    )
    assert sorted(key for key, _ in found) == sorted(
        [
            "default",
            "aliases.cheap",
            "aliases.loop",
            "aliases.other",
            "exprments",
            "experiments.a.arms.acurate",
            "experiments.a.shadow.0",
            "experiments.b.arms.fast",
            "experiments.b.sticky",
            "experiments.b.arms",
            "override weights.a",
            "override weights.zzz",
            "override default",
        ]
    )


@pytest.mark.parametrize(
    ("weights", "key", "words"),
    [
        ({"so400": {"fast": 100}}, "so400", "there is no such experiment; did you mean 'so400m'?"),
        ({"zzz": {"fast": 100}}, "zzz", "there is no such experiment; declared are: so400m"),
        ({"so400m": {}}, "so400m", "names no arm"),
        ({"so400m": {"fast": 99}}, "so400m", "must sum to 100 percent, not to 99"),
        ({"so400m": {"fast": 110, "accurate": -10}}, "so400m.accurate", "must be at least 0"),
        ({"so400m": {"fast": float("nan")}}, "so400m.fast", "must be a finite number"),
        ({"so400m": {"fast": 90, "acurate": 10}}, "so400m.acurate", "did you mean 'accurate'?"),
        ({"so400m": {"other": 100}}, "so400m.other", "has no arm 'other'; it has: fast, accurate"),
        ({"so400m": 5}, "so400m", "must be a mapping"),
    ],
)
def test_faults_of_an_operators_weights(weights: Any, key: str, words: str) -> None:
    found = refused(EXAMPLE, weights=weights)
    assert [name for name, _ in found] == [f"override weights.{key}"]
    assert words in found[0][1]


def test_weights_without_a_document_have_no_experiment() -> None:
    with pytest.raises(ConfigError, match=r"override weights\.x: there is no such experiment; "):
        build_routing(None, MODELS, "fast", {"x": {"fast": 100}})


def test_an_operators_default_must_exist() -> None:
    for name in ("other", "cheap", "so400m"):
        assert build(EXAMPLE, default_override=name).default == name
    found = refused(EXAMPLE, default_override="cheep")
    assert found == [("override default", "there is no model 'cheep'; did you mean 'cheap'?")]


def test_a_shadow_may_be_an_arm() -> None:
    assert build(experiment("arms: {fast: 100}, shadow: [fast]")).routed() == ("fast",)


def test_weights_may_be_off_by_rounding_alone() -> None:
    build(experiment("arms: {fast: 33.3333333, accurate: 33.3333333, other: 33.3333333}"))
    assert refused(experiment("arms: {fast: 33.33, accurate: 33.33, other: 33.33}"))


def test_faults_found_while_reading_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text("default: fats\ndefault: fast\n")
    with pytest.raises(ConfigError) as caught:
        build_routing(FileRoutingSource(path).read(), MODELS, "fast")
    assert caught.value.faults == (
        Fault("routing.yaml:default", "is given twice, in lines 1 and 2"),
        Fault("routing.yaml:default", "there is no model 'fats'; did you mean 'fast'?"),
    )


def test_the_document_and_the_overrides_stay_as_they_are() -> None:
    raw = yaml.safe_load(EXAMPLE)
    weights = {"so400m": {"accurate": 100.0}}
    build_routing(RoutingDocument(raw, ORIGIN), MODELS, "fast", weights)
    assert raw == yaml.safe_load(EXAMPLE)
    assert weights == {"so400m": {"accurate": 100.0}}

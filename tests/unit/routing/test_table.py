from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.errors import UnknownModelError
from serve_app.routing.build import build_routing
from serve_app.routing.split import choose
from serve_app.routing.table import Route, RoutingKeys, RoutingTable

MODELS = ("fast", "accurate", "other")

EXAMPLE: dict[str, Any] = {
    "default": "fast",
    "aliases": {"cheap": "fast", "cheaper": "cheap", "trial": "so400m"},
    "experiments": {"so400m": {"arms": {"fast": 90, "accurate": 10}, "shadow": ["accurate"]}},
}


def table(raw: dict[str, Any] | None = None, **arguments: Any) -> RoutingTable:
    document = None if raw is None else RoutingDocument(raw, Origin("SIMILARITY_ROUTING"))
    return build_routing(document, MODELS, "fast", **arguments)


def keys(routing_key: str | None = None, request_id: str = "request", **more: Any) -> RoutingKeys:
    return RoutingKeys(request_id, routing_key, **more)


def sticky(by: str) -> RoutingTable:
    return table({"experiments": {"x": {"arms": {"fast": 50, "accurate": 50}, "sticky_by": by}}})


def arms(built: RoutingTable, many: Iterator[RoutingKeys]) -> list[str | None]:
    return [built.route(None, each).arm for each in many]


def test_without_routing_the_default_model_answers() -> None:
    assert table().route(None, keys()) == Route("fast")
    assert table({}).route(None, keys()) == Route("fast")
    assert table().route("other", keys()) == Route("other")


@pytest.mark.parametrize("named", ["fast", "accurate", "fast@1f3a9c20", "fast@"])
def test_a_named_model_answers_by_itself(named: str) -> None:
    assert table(EXAMPLE).route(named, keys("user-1")) == Route(named, None, None, ())


def test_an_alias_is_its_target_without_the_experiment_of_that() -> None:
    for alias in ("cheap", "cheaper"):
        assert table(EXAMPLE).route(alias, keys("user-1")) == Route("fast")


def test_the_designs_example_splits_requests_that_name_nothing() -> None:
    built = table(EXAMPLE)
    routes = [built.route(None, keys(f"user-{number}")) for number in range(2000)]
    counts = Counter(route.model for route in routes)
    assert set(counts) == {"fast", "accurate"}
    assert abs(counts["accurate"] / 2000 - 0.1) < 0.02
    for number, route in enumerate(routes):
        arm = choose("so400m", {"fast": 90, "accurate": 10}, f"user-{number}")
        assert route == Route(arm, "so400m", arm, ("accurate",))


def test_an_experiment_can_be_named_directly_and_by_an_alias() -> None:
    built = table(EXAMPLE)
    for number in range(50):
        who = keys(f"user-{number}")
        assert built.route("so400m", who) == built.route("trial", who) == built.route(None, who)
        assert built.route("so400m", who).experiment == "so400m"


@pytest.mark.parametrize("default", ["fast", "cheaper", "so400m", "trial", None])
def test_every_default_that_leads_to_the_control_enters_the_experiment(default: str | None) -> None:
    built = table({**EXAMPLE, "default": default})
    assert built.route(None, keys("user-1")) == table(EXAMPLE).route("so400m", keys("user-1"))


@pytest.mark.parametrize("default", ["accurate", "other"])
def test_a_default_that_is_no_control_answers_by_itself(default: str) -> None:
    assert table({**EXAMPLE, "default": default}).route(None, keys("u")) == Route(default)


def test_an_operators_default_goes_before_the_documents() -> None:
    built = table(EXAMPLE, default_override="other")
    assert built.route(None, keys("u")) == Route("other")
    assert (built.default, built.spec.default) == ("other", "other")
    assert built.routed()[0] == "other"


def test_an_operators_weights_go_before_the_documents() -> None:
    built = table(EXAMPLE, weights={"so400m": {"accurate": 100}})
    assert {built.route(None, keys(f"u{number}")).arm for number in range(200)} == {"accurate"}
    assert built.spec.experiments["so400m"].arms == {"fast": 0, "accurate": 100}
    assert built.spec.experiments["so400m"].control == "fast"
    swapped = table(EXAMPLE, weights={"so400m": {"accurate": 30, "fast": 70}})
    assert list(swapped.spec.experiments["so400m"].arms) == ["fast", "accurate"]
    assert swapped.route(None, keys("u")).experiment == "so400m"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("fats", "There is no model 'fats'; did you mean 'fast'?"),
        ("cheep", "did you mean 'cheap'?"),
        ("so400", "did you mean 'so400m'?"),
        ("zzz", "There is no model 'zzz'. Declared are: fast, accurate, other, cheap,"),
        ("", "There is no model ''"),
        ("@1f3a9c20", "There is no model ''"),
        ("fats@1f3a9c20", "did you mean 'fast'?"),
        ("cheap@1f3a9c20", "'cheap' is an alias and has no revisions"),
        ("so400m@1f3a9c20", "'so400m' is an experiment and has no revisions"),
    ],
)
def test_unknown_names(named: str, words: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        table(EXAMPLE).route(named, keys())
    assert words in caught.value.detail


def test_what_a_request_is_sticky_by_decides_and_the_request_id_does_not() -> None:
    variants: dict[str, list[dict[str, Any]]] = {
        "routing_key": [{"routing_key": f"u{number}"} for number in range(100)],
        "header:X-User": [{"headers": {"x-user": f"u{number}"}} for number in range(100)],
        "text": [{"texts": (f"t{number}", "a")} for number in range(100)],
        "image": [{"images": (b"%d" % number, b"a")} for number in range(100)],
    }
    for by, many in variants.items():
        built = sticky(by)
        first = arms(built, (keys(request_id="1", **each) for each in many))
        second = arms(built, (keys(request_id="2", **each) for each in many))
        assert first == second
        assert set(first) == {"fast", "accurate"}


@pytest.mark.parametrize(
    ("by", "others"),
    [
        ("random", {"routing_key": "u", "headers": {"x": "y"}, "texts": ("t",), "images": (b"i",)}),
        ("routing_key", {"headers": {"routing_key": "u"}, "texts": ("t",)}),
        ("routing_key", {"routing_key": ""}),
        ("header:X-User", {"routing_key": "u", "headers": {"x-other": "y"}}),
        ("header:X-User", {"headers": {"x-user": ""}}),
        ("text", {"routing_key": "u", "texts": ()}),
        ("image", {"routing_key": "u", "images": ()}),
        ("image", {"images": lambda: iter(())}),
    ],
)
def test_without_the_sticky_key_the_request_id_splits(by: str, others: dict[str, Any]) -> None:
    built = sticky(by)
    found = arms(built, (keys(request_id=f"r{number}", **others) for number in range(1000)))
    expected = [choose("x", {"fast": 50, "accurate": 50}, f"r{number}") for number in range(1000)]
    assert found == expected


def test_texts_and_images_do_not_merge_and_their_order_counts() -> None:
    for by, field, parts in (
        ("text", "texts", [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab"), ("\ud800",)]),
        ("image", "images", [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"c", b"ab")]),
    ):
        experiment = sticky(by).spec.experiments["x"]
        found = {keys(**{field: part}).key(experiment) for part in parts}  # type: ignore[arg-type]
        assert len(found) == len(parts)


def test_images_are_read_only_where_an_experiment_is_sticky_by_them() -> None:
    read: list[int] = []

    def images() -> Iterator[bytes]:
        for number in range(2):
            read.append(number)
            yield b"%d" % number

    lazy = keys("u", images=images)
    for by in ("routing_key", "text", "random", "header:a"):
        sticky(by).route(None, lazy)
    sticky("image").route("fast", lazy)
    assert read == []
    assert sticky("image").route(None, lazy) == sticky("image").route(
        None, keys(images=(b"0", b"1"))
    )
    assert read == [0, 1]


def test_routed_are_the_models_that_must_be_ready() -> None:
    assert table().routed() == ("fast",)
    assert table(EXAMPLE).routed() == ("fast", "accurate")
    idle = {"experiments": {"x": {"arms": {"accurate": 100, "other": 0}}}}
    assert table(idle).routed() == ("fast", "accurate")
    assert table({**idle, "default": "x"}).routed() == ("accurate",)
    assert table({**idle, "aliases": {"a": "b", "b": "other"}}).routed()[:2] == ("fast", "other")
    shadowed = {"experiments": {"x": {"arms": {"fast": 100}, "shadow": ["other"]}}}
    assert table(shadowed).routed() == ("fast", "other")
    assert table(idle, weights={"x": {"accurate": 50, "other": 50}}).routed() == (
        "fast",
        "accurate",
        "other",
    )


def test_a_default_control_stays_ready_without_weight() -> None:
    built = table(EXAMPLE, weights={"so400m": {"accurate": 100}})
    assert built.routed() == ("fast", "accurate")


def test_tables_cross_process_boundaries_and_cannot_be_changed() -> None:
    built = table(EXAMPLE, weights={"so400m": {"fast": 50, "accurate": 50}})
    copy = pickle.loads(pickle.dumps(built))
    assert copy == built
    for number in range(50):
        assert copy.route(None, keys(f"u{number}")) == built.route(None, keys(f"u{number}"))
    with pytest.raises(FrozenInstanceError):
        built.default = "other"  # type: ignore[misc]
    route = built.route(None, keys("u"))
    assert pickle.loads(pickle.dumps(route)) == route

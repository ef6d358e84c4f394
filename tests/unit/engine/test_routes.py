from __future__ import annotations

import pickle

import pytest

from serve_app.engine.routes import keys_of, route_request
from serve_app.errors import UnknownModelError
from serve_app.routing.table import Route
from serve_app.types import EmbedRequest, ExperimentArm, ItemFault, ScoreRequest
from tests.unit.engine.conftest import resolved, snapshot_of

HALVES = {"a": 50, "b": 50}
FAULT = ItemFault("image_empty", "no bytes")


def snapshot(**experiment: object):
    routing = {"experiments": {"test": {"arms": HALVES, **experiment}}}
    return snapshot_of(resolved("a"), resolved("b"), resolved("c"), routing=routing)


async def arm(built, request: ScoreRequest | EmbedRequest, request_id: str = "id") -> str:
    chosen = (await route_request(built, request, request_id)).experiment
    assert chosen is not None
    assert chosen.name == "test"
    return chosen.arm


def score(**changes: object) -> ScoreRequest:
    return ScoreRequest((b"image",), ("text",), **changes)


async def test_without_routing_the_default_or_the_named_model_answers() -> None:
    built = snapshot_of(resolved("a"), resolved("b"))
    for model, wanted in ((None, "a"), ("b", "b"), ("b@00000001", "b")):
        routed = await route_request(built, score(model=model), "id")
        assert (routed.model.name, routed.experiment) == (wanted, None)
    with pytest.raises(UnknownModelError):
        await route_request(built, score(model="c"), "id")


async def test_a_revision_that_is_not_the_active_one_is_unknown() -> None:
    assert (await route_request(snapshot(), score(model="a@00000001"), "id")).route == Route(
        "a@00000001"
    )
    with pytest.raises(UnknownModelError, match="a@00000001 is active"):
        await route_request(snapshot(), score(model="a@ffffffff"), "id")


@pytest.mark.parametrize(
    ("sticky_by", "same"),
    [
        ("routing_key", [{"routing_key": "k"}, {"routing_key": "k", "headers": {"x": "1"}}]),
        ("header:X-User", [{"headers": {"x-user": "me"}}, {"headers": {"x-user": "me"}}]),
        ("text", [{}, {"routing_key": "other"}]),
        ("image", [{}, {"headers": {"x-user": "me"}}]),
    ],
)
async def test_what_an_experiment_is_sticky_by_decides_alone(sticky_by: str, same: list) -> None:
    built = snapshot(sticky_by=sticky_by)
    for changes in same:
        arms = {await arm(built, score(**changes), f"id {number}") for number in range(40)}
        assert len(arms) == 1
    (first, second) = [await arm(built, score(**changes)) for changes in same]
    assert first == second


async def test_random_is_by_the_request_id() -> None:
    built = snapshot(sticky_by="random")
    arms = [await arm(built, score(routing_key="k"), f"id {number}") for number in range(40)]
    assert set(arms) == {"a", "b"}


async def test_what_is_large_is_hashed_to_the_same_arm() -> None:
    built = snapshot(sticky_by="image")
    for number in range(8):
        image = bytes([number]) * (2 << 20)
        request = ScoreRequest((image,), ("x",))
        table = built.routing
        assert table is not None
        wanted = table.route(None, keys_of(request, "id")).arm
        assert await arm(built, request) == wanted


def test_keys_are_texts_and_images_in_their_order_without_faults() -> None:
    keys = keys_of(ScoreRequest((b"1", FAULT, b"2"), ("x", "y"), routing_key="k"), "id")
    assert (keys.texts, keys.images) == (("x", "y"), (b"1", b"2"))
    assert (keys.request_id, keys.routing_key) == ("id", "k")
    keys = keys_of(EmbedRequest(("x", b"1", FAULT, "y"), headers={"h": "v"}), "id")
    assert (keys.texts, keys.images, keys.headers) == (("x", "y"), (b"1",), {"h": "v"})


async def test_an_answer_is_told_experiment_and_arm_also_of_an_alias() -> None:
    routing = {"aliases": {"trial": "test"}, "experiments": {"test": {"arms": {"b": 100}}}}
    built = snapshot_of(resolved("a"), resolved("b"), routing=routing)
    routed = await route_request(built, score(model="trial"), "id")
    assert routed.experiment == ExperimentArm("test", "b")
    assert (await route_request(built, score(), "id")).model.name == "a"


def test_headers_are_never_shown_and_travel() -> None:
    for request in (
        score(headers={"authorization": "hunter2"}),
        EmbedRequest(("x",), headers={"authorization": "hunter2"}),
    ):
        assert "hunter2" not in repr(request)
        assert pickle.loads(pickle.dumps(request)).headers == {"authorization": "hunter2"}
        hash(request)

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from serve_app.config.faults import Origin
from serve_app.config.routing_source import RoutingDocument
from serve_app.control.overrides import Overrides, OverridesView
from serve_app.control.publisher import force_differs
from serve_app.control.snapshot import ModelStatus, ServingSnapshot
from serve_app.errors import Fault, UnknownModelError
from serve_app.models.base import Placement
from serve_app.models.registry import ResolvedModel
from serve_app.models.snapshot import RegistrySnapshot
from serve_app.routing.build import build_routing
from serve_app.routing.table import RoutingKeys
from serve_app.testing import fake_spec


def model(name: str, revision: str, **fields: object) -> ResolvedModel:
    return ResolvedModel(name, revision, fake_spec(**fields), Placement())


OLD, NEW, SLOW, SOON = (
    model("fast", "00000001"),
    model("fast", "00000002"),
    model("slow", "00000003", pool="other"),
    model("soon", "00000004"),
)
MOVED = model("slow", "00000003")
SNAPSHOT = ServingSnapshot(
    version=("plane", 3),
    number=2,
    catalog={item.id: item for item in (OLD, NEW, SLOW, SOON)},
    active={"slow": SLOW.id, "fast": NEW.id},
    routing=build_routing(None, ("slow", "fast"), "fast"),
    resident=(NEW.id,),
    candidates={SOON.id: 2, SLOW.id: 1},
    trials={SOON.id: "r1"},
    moving={SLOW.id: MOVED},
    statuses={SOON.id: ModelStatus("failed", "no memory")},
    faults=(Fault("a", "b"),),
    overrides=OverridesView(Overrides(weights={"e": {"fast": 1.0}}), "ada"),
    notices=(Fault("c", "d"),),
)


def test_it_resolves_names_to_what_is_active_and_ids_to_all_of_the_catalog() -> None:
    assert SNAPSHOT.resolve() is NEW
    assert SNAPSHOT.default == "fast"
    assert SNAPSHOT.resolve("fast") is NEW
    assert SNAPSHOT.resolve(OLD.id) is OLD
    assert SNAPSHOT.by_id(SOON.id) is SOON
    assert list(SNAPSHOT.models) == ["slow", "fast"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("fats", "did you mean 'fast'"),
        ("zzz", "Declared are: slow, fast"),
        ("fast@99999999", "fast@00000002 is active"),
        ("soon", "soon@00000004 does not answer: it is failed, no memory"),
    ],
)
def test_what_does_not_answer_is_an_error_that_helps(asked: str, told: str) -> None:
    with pytest.raises(UnknownModelError, match=told):
        SNAPSHOT.resolve(asked)


def test_an_id_has_a_revision() -> None:
    with pytest.raises(UnknownModelError, match="form name@revision"):
        SNAPSHOT.by_id("fast")


def test_it_tells_a_replica_what_to_load() -> None:
    assert SNAPSHOT.preloaded() == (NEW,)
    assert SNAPSHOT.for_pool("other") == (SLOW,)
    assert SNAPSHOT.candidates_for("default", "r1") == ((SOON, 2), (MOVED, 1))
    assert SNAPSHOT.candidates_for("default", "r2") == ((MOVED, 1),)
    assert SNAPSHOT.candidates_for("other", "r3") == ()


def test_it_pickles_and_cannot_be_changed() -> None:
    copy = pickle.loads(pickle.dumps(SNAPSHOT))
    assert copy == SNAPSHOT
    assert copy.notices == SNAPSHOT.notices
    assert copy.models == SNAPSHOT.models
    assert list(copy.active) == list(SNAPSHOT.active)
    with pytest.raises(FrozenInstanceError):
        SNAPSHOT.number = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        SNAPSHOT.active["fast"] = OLD.id  # type: ignore[index]
    assert replace(SNAPSHOT, active={"fast": OLD.id}).models == {"fast": OLD}


def test_the_order_of_arms_and_of_models_is_something_else() -> None:
    """Though mappings compare equal in any order: the first arm is the control."""
    arms = {"slow": 50.0, "fast": 50.0}

    def snapshot(arms: dict[str, float]) -> ServingSnapshot:
        raw = {"experiments": {"e": {"arms": arms}}}
        document = RoutingDocument(raw, Origin("routing"))
        return replace(SNAPSHOT, routing=build_routing(document, ("slow", "fast"), "fast"))

    one, other = snapshot(arms), snapshot(dict(reversed(arms.items())))
    assert one == other
    assert force_differs(one, other)
    assert not force_differs(one, snapshot(arms))
    assert not force_differs(one, replace(one, version=("plane", 4)))
    assert force_differs(one, replace(one, active=dict(reversed(one.active.items()))))
    fewer = replace(one.routing, models=("slow",))
    assert force_differs(one, replace(one, routing=fewer))


def test_it_offers_what_a_registry_snapshot_offers_to_those_who_serve() -> None:
    offered = {name for name in vars(RegistrySnapshot) if not name.startswith("_")}
    offered |= set(RegistrySnapshot.__annotations__)
    assert {name for name in offered if not hasattr(SNAPSHOT, name)} <= {"routed_by"}
    assert SNAPSHOT.routing.route(None, RoutingKeys("x")).model == "fast"

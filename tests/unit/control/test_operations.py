from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest

from serve_app.control.operations import (
    Clear,
    Operation,
    Pin,
    Promote,
    Rollback,
    SetWeights,
    Unpin,
)
from serve_app.control.overrides import Overrides
from serve_app.errors import InvalidRequestError

WHO = {"who": "ada", "reason": "a test"}
FULL = Overrides(3, "slow", {"e": {"fast": 100.0}}, ("slow",), keep=True)

ALL: list[Operation] = [
    Promote(target="slow", **WHO),
    Rollback(**WHO),
    Pin(name="slow", **WHO),
    Unpin(name="slow", **WHO),
    SetWeights(experiment="e", arms={"fast": 100}, **WHO),
    Clear(**WHO),
]


@pytest.mark.parametrize("field", ["who", "reason"])
@pytest.mark.parametrize("value", ["", "  \n"])
def test_who_and_reason_are_asked_for(field: str, value: str) -> None:
    for operation in ALL:
        with pytest.raises(InvalidRequestError, match=f"`{field}` is empty"):
            type(operation)(**{**vars(operation), field: value})


@pytest.mark.parametrize("operation", ALL, ids=lambda item: item.kind)
def test_an_operation_cannot_be_changed_and_pickles(operation: Operation) -> None:
    with pytest.raises(FrozenInstanceError):
        operation.who = "eve"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(operation)) == operation


def test_what_operations_make_of_overrides() -> None:
    none = Overrides()
    assert Promote(target="slow", **WHO).apply(none, 1) == Overrides(default="slow")
    assert Rollback(**WHO).apply(none, 4) == Overrides(snapshot=4)
    assert Rollback(number=2, **WHO).apply(FULL, 4) == Overrides(
        snapshot=2, pinned=("slow",), keep=True
    )
    twice = Pin(name="b", **WHO).apply(Pin(name="b", **WHO).apply(FULL, None), None)
    assert twice.pinned == ("slow", "b")
    assert Unpin(name="slow", **WHO).apply(FULL, None).pinned == ()
    weights = SetWeights(experiment="f", arms={"a": 100}, **WHO).apply(FULL, None).weights
    assert weights == {"e": {"fast": 100.0}, "f": {"a": 100}}
    assert Clear(keep=True, **WHO).apply(FULL, None) == none


def test_keep_stays_once_it_was_asked_for() -> None:
    kept = Promote(target="slow", keep=True, **WHO).apply(Overrides(), None)
    assert kept.keep
    assert Pin(name="a", **WHO).apply(kept, None).keep


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="no earlier snapshot"):
        Rollback(**WHO).apply(Overrides(), None)
    with pytest.raises(InvalidRequestError, match="'b' is not pinned; pinned are: slow"):
        Unpin(name="b", **WHO).apply(FULL, None)


def test_overrides_pickle_and_cannot_be_changed() -> None:
    assert pickle.loads(pickle.dumps(FULL)) == FULL
    with pytest.raises(TypeError):
        FULL.weights["e"]["fast"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (Overrides(), False),
        (Overrides(keep=True), False),
        (Overrides(snapshot=0), True),
        (Overrides(default="a"), True),
        (Overrides(weights={"e": {}}), True),
        (Overrides(pinned=("a",)), True),
    ],
)
def test_overrides_are_true_when_they_change_something(
    overrides: Overrides, expected: bool
) -> None:
    assert bool(overrides) is expected

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve_app.engine.poison import run_poison_proof
from serve_app.errors import TextInvalidError
from serve_app.types import ItemFault


class Square:
    """Squares, and fails where a batch has one of the bad numbers."""

    def __init__(self, *bad: int) -> None:
        self.bad = set(bad)
        self.calls = 0

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.calls += 1
        if self.bad & set(items):
            raise ValueError("bad number")
        return [item * item for item in items]


def test_a_healthy_batch_is_run_once():
    square = Square()
    assert run_poison_proof(square, [1, 2, 3]) == [1, 4, 9]
    assert square.calls == 1
    assert run_poison_proof(square, []) == []


@pytest.mark.parametrize("bad", [(0,), (15,), (3, 4), tuple(range(16))])
def test_bad_items_stand_alone_and_the_others_have_results(bad: tuple[int, ...]):
    square = Square(*bad)
    results = run_poison_proof(square, range(16))
    assert [item for item, r in enumerate(results) if isinstance(r, ItemFault)] == list(bad)
    assert all(r == item * item for item, r in enumerate(results) if item not in bad)
    assert square.calls <= 1 + 2 * 4 * len(bad)  # two halves per level and bad item


def test_a_fault_says_what_the_model_said_but_not_at_any_length():
    def fail(items: Sequence[object]) -> list[object]:
        raise ValueError("x" * 10_000)

    (fault,) = run_poison_proof(fail, [1])
    assert fault.code == "model_failed"
    assert "ValueError: xxx" in fault.detail
    assert len(fault.detail) < 400


def test_the_models_own_item_errors_keep_their_code():
    def refuse(items: Sequence[object]) -> list[object]:
        raise TextInvalidError("not a text")

    assert run_poison_proof(refuse, [1]) == [ItemFault("text_invalid", "not a text")]

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import product

import pytest

from serve_app.routing.split import choose, digest, text_bytes

KEYS = [f"user-{number}" for number in range(10_000)]

IN_A_FRESH_PROCESS = """
import json, sys
from serve_app.routing.split import choose
keys, arms = json.load(sys.stdin)
json.dump([choose("so400m", arms, key) for key in keys], sys.stdout)
"""


def split(arms: Mapping[str, float], experiment: str = "so400m") -> list[str]:
    return [choose(experiment, arms, key) for key in KEYS]


def moves(before: Mapping[str, float], after: Mapping[str, float]) -> Counter[tuple[str, str]]:
    """How many keys went from one arm to another."""
    both = zip(split(before), split(after), strict=True)
    return Counter((old, new) for old, new in both if old != new)


@pytest.mark.parametrize(
    "arms",
    [
        {"fast": 90, "accurate": 10},
        {"fast": 50, "accurate": 50},
        {"a": 60, "b": 25, "c": 15},
        {"a": 0.9, "b": 0.1},
    ],
)
def test_shares_are_the_weights(arms: dict[str, float]) -> None:
    counts = Counter(split(arms))
    for arm, weight in arms.items():
        share = weight / math.fsum(arms.values())
        assert abs(counts[arm] / len(KEYS) - share) < 0.01


def test_the_order_of_arms_does_not_matter() -> None:
    assert split({"fast": 90, "accurate": 10}) == split({"accurate": 10, "fast": 90})


def test_an_arm_of_weight_0_is_never_chosen() -> None:
    assert set(split({"fast": 0, "accurate": 100})) == {"accurate"}
    assert split({"a": 50, "b": 50}) == split({"a": 50, "b": 50, "c": 0})


def test_some_arm_must_have_a_weight() -> None:
    for arms in ({}, {"a": 0.0}):
        with pytest.raises(ValueError, match="'x'"):
            choose("x", arms, "key")


def test_the_choice_is_the_same_in_another_process() -> None:
    keys, arms = [*KEYS[:500], "", "ключ", "\ud800"], {"fast": 50.0, "accurate": 30.0, "c": 20.0}
    here = [choose("so400m", arms, key) for key in keys]
    assert set(here) == set(arms)
    for seed in ("0", "1", "4242"):
        answer = subprocess.run(
            [sys.executable, "-c", IN_A_FRESH_PROCESS],
            input=json.dumps([keys, arms]),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(answer.stdout) == here


def test_the_choice_is_the_same_in_every_release() -> None:
    """A change of the hash would throw every running experiment's keys about."""
    arms = {"fast": 50.0, "accurate": 30.0, "c": 20.0}
    chosen = [choose("so400m", arms, key) for key in KEYS[:12]]
    assert " ".join(chosen) == ("c accurate fast fast c c fast accurate accurate fast fast c")


def test_two_arms_exchange_what_was_moved_and_nothing_else() -> None:
    found = moves({"fast": 90, "accurate": 10}, {"fast": 80, "accurate": 20})
    assert set(found) == {("fast", "accurate")}
    assert 0.08 * len(KEYS) < found["fast", "accurate"] < 0.12 * len(KEYS)


def test_keys_only_leave_the_arm_that_lost_or_join_the_one_that_gained() -> None:
    before = {"a": 40, "b": 20, "c": 20, "d": 20}
    found = moves(before, {**before, "a": 30, "b": 30})
    assert found["a", "b"] > 0.05 * len(KEYS)
    assert all(old == "a" or new == "b" for old, new in found)
    assert all(new != "a" and old != "b" for old, new in found)
    assert not {("c", "d"), ("d", "c")} & set(found)


def test_a_third_arm_keeps_its_share_and_nearly_all_of_its_keys() -> None:
    before, after = {"a": 60, "b": 20, "c": 20}, {"a": 50, "b": 30, "c": 20}
    of_c = [(old, new) for old, new in zip(split(before), split(after), strict=True) if old == "c"]
    kept = sum(new == "c" for _, new in of_c) / len(of_c)
    assert abs(kept - 100 / 110) < 0.02
    assert {new for _, new in of_c} == {"b", "c"}
    assert abs(split(after).count("c") / len(KEYS) - 0.2) < 0.01


def test_ending_an_arm_moves_its_keys_alone() -> None:
    found = moves({"a": 50, "b": 30, "c": 20}, {"a": 50, "b": 30, "c": 0})
    assert {old for old, _ in found} == {"c"}


def test_experiments_are_independent_of_each_other() -> None:
    arms = {"fast": 50, "accurate": 50}
    both = Counter(zip(split(arms, "first"), split(arms, "second"), strict=True))
    for pair in product(arms, arms):
        assert abs(both[pair] / len(KEYS) - 0.25) < 0.02


def test_names_and_keys_cannot_merge() -> None:
    parts = [("ab", "c", "d"), ("a", "bc", "d"), ("a", "b", "cd"), ("a", "b\0c", "d"), ("abcd",)]
    digests = {digest(map(text_bytes, part)) for part in parts}
    assert len(digests) == len(parts)
    assert digest([]) != digest([b""]) != digest([b"", b""])


def test_a_lone_surrogate_is_a_key_like_any_other() -> None:
    keys = ("\ud800", "\udfff", "?", "\ufffd")
    assert len({digest([text_bytes(key)]) for key in keys}) == len(keys)
    assert {choose("x", {"only": 100}, key) for key in keys} == {"only"}

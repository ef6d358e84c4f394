"""Which arm of an experiment a key belongs to; keeps no state and knows no configuration."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping

_LENGTH_BYTES = 8
_UNUSED_BITS = 12
_USED = 2.0**52


def choose(experiment: str, arms: Mapping[str, float], key: str) -> str:
    """The arm of a key, by weighted rendezvous hashing.

    Each arm scores `-weight / ln(u)`, and the highest score wins. `u`, in (0, 1), is a hash of
    experiment, arm and key alone: the same in every process, on every machine, after every
    restart. `-ln(u) / weight` is exponentially distributed with rate `weight`, so an arm wins with
    a probability of `weight / sum of weights`.

    A key leaves its arm only where another's score passes it. So when weight moves from arm A to
    arm B, keys leave A or join B and none moves between the others; two arms exchange exactly the
    share that was moved. Beside a third arm of weight w, that arm gives B what it gets from A:
    its share stays, and of its keys all but `d / (100 + d)` when d points move. (No rule without
    memory could do better for every pair of arms: arms whose keys depend on their own weight alone
    cannot be disjoint at every split.)

    Source: D. G. Thaler, C. V. Ravishankar, "Using name-based mappings to increase hit rates",
    IEEE/ACM Transactions on Networking 6(1), 1998; weighted form: C. Schindelhauer, G. Schomaker,
    "Weighted distributed hash tables", SPAA 2005.

    Args:
        experiment: Its name: the arms of one experiment say nothing about those of another.
        arms: Arm to weight, at least 0; an arm of weight 0 is never chosen.
        key: What the choice is sticky by.

    Raises:
        ValueError: No arm has a weight.
    """
    scores = [
        (-weight / math.log(_uniform(experiment, arm, key)), arm)
        for arm, weight in arms.items()
        if weight > 0
    ]
    if not scores:
        raise ValueError(f"No arm of the experiment {experiment!r} has a weight.")
    return max(scores)[1]


def digest(parts: Iterable[bytes], size: int = 16) -> bytes:
    """A hash of a sequence of byte strings; each goes in with its length, so that none can merge.

    Args:
        parts: The byte strings.
        size: Bytes of the hash, 1 to 64.
    """
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(len(part).to_bytes(_LENGTH_BYTES, "big"))
        state.update(part)
    return state.digest()


def text_bytes(text: str) -> bytes:
    """UTF-8, also of lone surrogates, which JSON can bring in."""
    return text.encode("utf-8", "surrogatepass")


def _uniform(experiment: str, arm: str, key: str) -> float:
    hashed = int.from_bytes(digest(map(text_bytes, (experiment, arm, key)), size=8), "big")
    # 52 bits and a half: exact in a float, hence never 0 or 1, of which ln(u) would be no use.
    return ((hashed >> _UNUSED_BITS) + 0.5) / _USED

"""What can be said of a scene: claims and whether they are true; knows no wording and no pixels.

A claim is the meaning of a caption. Everything that training and evaluation must know about a
caption (is it true of that other picture? what is its colour-swapped twin?) is asked of the claim.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final, Literal

from serve_app.demo import wording
from serve_app.demo.scenes import Scene, Thing
from serve_app.demo.wording import Claim, Phrase

Swap = Literal["colour", "relation", "size", "count"]

OPPOSITE: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
"""Each relation and the one that says the contrary."""

_MAX_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class Caption:
    """A claim and one way to say it."""

    claim: Claim
    text: str


def describe(scene: Scene, rng: random.Random, plain: bool = False) -> Caption:
    """Say something true of a scene.

    Args:
        scene: What to describe.
        rng: Chooses what is said (all of the scene, or a part) and in which words.
        plain: Say the whole scene, in the grammar's plainest words.

    Returns:
        A caption whose claim is true of the scene.
    """
    claim = full_claim(scene, rng) if plain else _some_claim(scene, rng)
    return Caption(claim, wording.say(claim) if plain else wording.paraphrase(claim, rng))


def full_claim(scene: Scene, rng: random.Random) -> Claim:
    """All of a scene: its one thing, its count, its pair's relation, or its list."""
    things = list(scene.things)
    if len(things) == 1:
        return Claim((_name(things[0]),))
    if len({(t.shape, t.colour) for t in things}) == 1:
        return Claim((replace(_name(things[0]), count=len(things)),))
    rng.shuffle(things)
    relation = _clear_relation(things[0], things[1]) if len(things) == 2 else None
    return Claim(tuple(_name(t) for t in things), relation)


def is_true(claim: Claim, scene: Scene) -> bool:
    """Whether a claim holds of a scene.

    "a red circle" is true wherever there is at least one; "two red circles" needs exactly two. A
    relation holds as soon as the centres lie on the right sides of each other.
    """
    found = []
    for phrase in claim.phrases:
        matching = [t for t in scene.things if _matches(phrase, t)]
        if len(matching) != phrase.count if phrase.count > 1 else not matching:
            return False
        found.append(matching)
    if claim.relation is None:
        return True
    return any(a is not b and _holds(claim.relation, a, b) for a in found[0] for b in found[1])


def swaps(claim: Claim, scene: Scene) -> dict[Swap, Claim]:
    """The false twins of a true claim: the same words, wrongly arranged.

    Args:
        claim: What is true of the scene.
        scene: Lends a colour where the claim names only one thing of several.

    Returns:
        By kind, the claims that are untrue of the scene: `colour` (the colours change places),
        `relation` (left for right, above for below), `size` (small for large) and `count`. A kind
        is missing where there is no such twin.
    """
    twins: dict[Swap, Claim | None] = {
        "colour": swap_colours(claim, scene),
        "relation": swap_relation(claim),
        "size": _swap_sizes(claim),
        "count": _swap_count(claim),
    }
    return {
        kind: twin for kind, twin in twins.items() if twin is not None and not is_true(twin, scene)
    }


def swap_relation(claim: Claim) -> Claim | None:
    """The claim with left for right or above for below, or None if it states no relation."""
    return replace(claim, relation=OPPOSITE[claim.relation]) if claim.relation else None


def swap_colours(claim: Claim, scene: Scene | None = None) -> Claim | None:
    """The claim with its first two colours exchanged, or None where that changes nothing.

    A claim that names one thing takes the colour of another thing of the scene, if one is given.
    """
    first, *rest = claim.phrases
    if first.colour is None:
        return None
    if rest:
        second = rest[0]
        if second.colour is None or second.colour == first.colour:
            return None
        exchanged = (replace(first, colour=second.colour), replace(second, colour=first.colour))
        return replace(claim, phrases=(*exchanged, *rest[1:]))
    others = [t.colour for t in scene.things if t.colour != first.colour] if scene else []
    return replace(claim, phrases=(replace(first, colour=others[0]),)) if others else None


def _swap_sizes(claim: Claim) -> Claim | None:
    other = {"small": "large", "large": "small"}
    if not any(p.size for p in claim.phrases):
        return None
    flipped = (replace(p, size=other[p.size]) if p.size else p for p in claim.phrases)
    return replace(claim, phrases=tuple(flipped))


def _swap_count(claim: Claim) -> Claim | None:
    first = claim.phrases[0]
    if len(claim.phrases) > 1:
        return None
    count = first.count % _MAX_COUNT + 1
    return replace(claim, phrases=(replace(first, count=max(2, count)),))


def _some_claim(scene: Scene, rng: random.Random) -> Claim:
    things = list(scene.things)
    counted = len(things) > 1 and len({(t.shape, t.colour) for t in things}) == 1
    draw = rng.random()
    if len(things) == 1 or draw < 0.25:
        return Claim((_phrase(rng.choice(things), rng, loose=True),))
    if counted:
        phrase = replace(_phrase(things[0], rng, sized=False), count=len(things))
        return Claim((phrase,))
    rng.shuffle(things)
    relation = _clear_relation(things[0], things[1])
    if len(things) == 3 and (relation is None or draw < 0.6):
        return Claim(tuple(_phrase(t, rng, sized=False) for t in things))
    related = relation if draw > 0.4 else None
    return Claim(tuple(_phrase(t, rng) for t in things[:2]), related)


def _phrase(thing: Thing, rng: random.Random, loose: bool = False, sized: bool = True) -> Phrase:
    phrase = _name(thing)
    if sized and thing.size and rng.random() < 0.25:
        phrase = replace(phrase, size=thing.size)
    if loose and rng.random() < 0.1:
        return replace(phrase, colour=None) if rng.random() < 0.5 else replace(phrase, shape=None)
    return phrase


def _name(thing: Thing) -> Phrase:
    return Phrase(thing.shape, thing.colour)


def _matches(phrase: Phrase, thing: Thing) -> bool:
    return (
        phrase.shape in (None, thing.shape)
        and phrase.colour in (None, thing.colour)
        and phrase.size in (None, thing.size)
    )


def _clear_relation(a: Thing, b: Thing) -> str | None:
    """How one thing stands to another, where nobody would dispute it."""
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) > 1.4 * abs(dy):
        return "left" if dx > 0 else "right"
    if abs(dy) > 1.4 * abs(dx):
        return "above" if dy > 0 else "below"
    return None


def _holds(relation: str, a: Thing, b: Thing) -> bool:
    dx, dy = b.x - a.x, b.y - a.y
    return {"left": dx > 0, "right": dx < 0, "above": dy > 0, "below": dy < 0}[relation]

"""Claims as English: the grammar of captions; knows no scene and no pixels.

`say` gives the plainest wording, `paraphrase` any of the wordings that the grammar has.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from serve_app.demo.scenes import COLOURS


@dataclass(frozen=True, slots=True)
class Phrase:
    """One noun phrase; `shape`, `colour` and `size` (`small` or `large`) may be left open."""

    shape: str | None
    colour: str | None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """Phrases, and how the first stands to the second (`left`, `right`, `above`, `below`)."""

    phrases: tuple[Phrase, ...]
    relation: str | None = None


SHAPE_WORDS: Final = {
    # The first is the plain one; plurals stand beside their singular.
    "circle": (("circle", "circles"), ("disc", "discs"), ("dot", "dots")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "cross": (("cross", "crosses"), ("plus", "pluses")),
    "heart": (("heart", "hearts"),),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
    "crescent": (("crescent", "crescents"), ("moon", "moons")),
}
COLOUR_WORDS: Final = {
    **{colour: (colour,) for colour in COLOURS},
    "purple": ("purple", "violet"),
    "cyan": ("cyan", "turquoise"),
}
SIZE_WORDS: Final = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
COUNT_WORDS: Final = {2: ("two", "2"), 3: ("three", "3")}
ANYTHING: Final = (("shape", "shapes"), ("object", "objects"), ("thing", "things"))

RELATION_WORDS: Final = {
    "left": (
        "left of",
        "to the left of",
        "on the left of",
        "is left of",
        "is to the left of",
        "that is left of",
    ),
    "right": (
        "right of",
        "to the right of",
        "on the right of",
        "is right of",
        "is to the right of",
        "that is right of",
    ),
    "above": ("above", "is above", "over", "on top of", "that is above"),
    "below": ("below", "is below", "under", "beneath", "underneath", "that is below"),
}
PREFIXES: Final = (
    "a photo of",
    "a picture of",
    "an image of",
    "a drawing of",
    "a photo depicts",
    "a picture depicts",
    "the image shows",
    "this figure shows",
    "this picture contains",
    "there is",
    "we see",
    "an illustration of",
    "a photo that shows",
)
SUFFIXES: Final = (
    "in the picture",
    "in this image",
    "on a plain background",
    "on the canvas",
    "in the photo",
)
_SYNONYM_RATE: Final = 0.15
_FILLER_RATE: Final = 0.04


def say(claim: Claim) -> str:
    """A claim in its plainest words, e.g. "a red circle left of a blue square"."""
    named = [_plain(p) for p in claim.phrases]
    if claim.relation is not None:
        return f"{named[0]} {RELATION_WORDS[claim.relation][0]} {named[1]}"
    return _listed(named)


def paraphrase(claim: Claim, rng: random.Random) -> str:
    """A claim in any of the grammar's words, now and then with words that mean nothing here."""
    named = [_varied(p, rng) for p in claim.phrases]
    if claim.relation is None:
        joint = " and " if rng.random() < 0.8 else rng.choice((" with ", " next to ", " beside "))
        body = joint.join(named) if len(named) == 2 else _listed(named)
    elif claim.relation in ("left", "right") and rng.random() < 0.06:
        sides = ("left", "right") if claim.relation == "left" else ("right", "left")
        body = f"{named[0]} on the {sides[0]} and {named[1]} on the {sides[1]}"
    else:
        words = RELATION_WORDS[claim.relation]
        relation = words[0] if rng.random() < 0.4 else rng.choice(words)
        body = f"{named[0]} {relation} {named[1]}"
    if rng.random() < 0.4:
        body = f"{rng.choice(PREFIXES)} {body}"
    elif len(named) == 1 and rng.random() < 0.1:
        body = f"{body} {rng.choice(SUFFIXES)}"
    if len(named) == 1 and rng.random() < _FILLER_RATE:
        body = _with_filler(body, rng)
    return body + "." if rng.random() < 0.08 else body


def longest_captions() -> Iterator[str]:
    """For each shape of caption the longest wording there is, to hold the context length to."""
    noun = max((w[0] for words in SHAPE_WORDS.values() for w in words), key=len)
    colour = max((w for words in COLOUR_WORDS.values() for w in words), key=len)
    for prefix in PREFIXES:
        for words in RELATION_WORDS.values():
            for relation in words:
                yield f"{prefix} the little {colour} {noun} {relation} the little {colour} {noun}."
        for side, other in (("left", "right"), ("right", "left")):
            thing = f"the little {colour} {noun}"
            yield f"{prefix} {thing} on the {side} and {thing} on the {other}."
        yield f"{prefix} a {colour} {noun}, a {colour} {noun} and a {colour} {noun}."


def _plain(phrase: Phrase) -> str:
    plural = phrase.count > 1
    noun = (SHAPE_WORDS[phrase.shape] if phrase.shape else ANYTHING)[0][plural]
    words = [w for w in (phrase.size, phrase.colour, noun) if w]
    return " ".join([COUNT_WORDS[phrase.count][0] if plural else _article(words[0]), *words])


def _varied(phrase: Phrase, rng: random.Random) -> str:
    plural = phrase.count > 1
    nouns = SHAPE_WORDS[phrase.shape] if phrase.shape else ANYTHING
    words = [_pick([n[plural] for n in nouns], rng)]
    if phrase.colour:
        words.insert(0, _pick(COLOUR_WORDS[phrase.colour], rng))
    if phrase.size:
        words.insert(0, _pick(SIZE_WORDS[phrase.size], rng))
    draw = rng.random()
    if plural:
        return " ".join([_pick(COUNT_WORDS[phrase.count], rng), *words])
    if draw < 0.05:
        return " ".join(["one" if draw < 0.02 else "the", *words])
    # "a orange circle" is what a template filled in by a program says.
    return " ".join(["a" if draw < 0.15 else _article(words[0]), *words])


def _pick(words: list[str] | tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(words) if rng.random() < _SYNONYM_RATE else words[0]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _listed(named: list[str]) -> str:
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _with_filler(body: str, rng: random.Random) -> str:
    """Put a meaningless word before or after, so that an unknown word costs little at inference."""
    filler = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 6)))
    return f"{filler} {body}" if rng.random() < 0.5 else f"{body} {filler}"


def lexicon() -> list[str]:
    """Every word of the grammar, sorted: what the tokenizer keeps whole."""
    texts = [*PREFIXES, *SUFFIXES, "a an the one and with next to beside on"]
    texts += [w for words in RELATION_WORDS.values() for w in words]
    texts += [w for words in COLOUR_WORDS.values() for w in words]
    texts += [w for words in SIZE_WORDS.values() for w in words]
    texts += [w for words in COUNT_WORDS.values() for w in words]
    texts += [w for pairs in (*SHAPE_WORDS.values(), ANYTHING) for pair in pairs for w in pair]
    return sorted({word for text in texts for word in text.split()})

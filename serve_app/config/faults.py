"""From what is wrong to where it stands and what to do; knows no setting and no model."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from serve_app.errors import Fault

Path = tuple[str, ...]
"""Where a value stands inside a document: the keys from the top down."""

LocatedMessage = tuple[Path, str]
"""A message and the path of the value it is about."""

_WIDEST_VALUE = 60

_NUMBER_TYPES = {"int_type", "int_parsing", "int_from_float", "int_parsing_size"}
_FLOAT_TYPES = {"float_type", "float_parsing"}
_MAPPING_TYPES = {"model_type", "model_attributes_type", "dict_type"}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document was read, and so how its keys are called.

    Attributes:
        name: A variable's or a file's name.
        separator: What stands between the name and the dotted path: `.` or, for files, `:`.
    """

    name: str
    separator: str = "."

    def key(self, path: Sequence[str] = ()) -> str:
        """The full key of a path, for example `SIMILARITY_MODELS.fast.precision`."""
        return f"{self.name}{self.separator}{'.'.join(path)}" if path else self.name


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where a known word is near (case does not count), else nothing."""
    by_folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f"; did you mean {by_folded[near[0]]!r}?" if near else ""


def unknown_key(word: str, known: Iterable[str]) -> str:
    """The message for a key that nobody reads."""
    names = list(known)
    return "unknown key" + (suggestion(word, names) or f"; known are: {', '.join(sorted(names))}")


def show(value: object) -> str:
    """A value as its author wrote it, cut to a readable length."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= _WIDEST_VALUE else f"{text[: _WIDEST_VALUE - 1]}…"


def located_messages(error: ValidationError, model: type[BaseModel]) -> list[LocatedMessage]:
    """What pydantic found, one message per path, in words for people.

    Args:
        error: From validating a `model`.
        model: The model that was validated.

    Returns:
        Paths and messages; the branches of a union are merged (`must be A, or must be B`).
    """
    found: dict[Path, list[str]] = {}
    for item in error.errors(include_url=False):
        path, owner = _clean_path(item["loc"], model)
        message = _message(dict(item), owner)
        messages = found.setdefault(path, [])
        if message not in messages:
            messages.append(message)
    inner = {path[:end] for path in found for end in range(len(path))}
    # The branch of a union that got furthest is the one that was meant.
    return [(path, _either(messages)) for path, messages in found.items() if path not in inner]


def pydantic_faults(
    error: ValidationError, prefix: str, model: type[BaseModel]
) -> tuple[Fault, ...]:
    """What pydantic found, as faults whose keys start with `prefix`."""
    origin = Origin(prefix)
    if not prefix:
        return tuple(
            Fault(".".join(path) or model.__name__, message)
            for path, message in located_messages(error, model)
        )
    return tuple(
        Fault(origin.key(path), message) for path, message in located_messages(error, model)
    )


def member_types(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: unions and annotations taken apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from member_types(get_args(annotation)[0])
    elif origin is Union or origin is types.UnionType:
        for member in get_args(annotation):
            yield from member_types(member)
    else:
        yield annotation


def _clean_path(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[Path, Any]:
    """Drops what pydantic puts between keys to name a union's branch; also finds the owner.

    Returns:
        The path, and the model whose field (or unknown key) stands at its end.
    """
    path: list[str] = []
    owner: Any = model
    here: list[Any] = [model]
    for part in loc:
        models = [kind for kind in here if isinstance(kind, type) and issubclass(kind, BaseModel)]
        # A branch whose model has validators is called `function-after[_check(), Name]`.
        branch = [kind for kind in models if re.search(rf"(^|\W){kind.__name__}\]?$", str(part))]
        if len(here) > 1 and branch:
            here = branch
            continue
        fields = [kind.model_fields[part] for kind in models if part in kind.model_fields]
        if fields:
            owner = models[0]
            # pydantic names no branch where the only other one is None.
            kinds = [kind for field in fields for kind in member_types(field.annotation)]
            here = [kind for kind in kinds if kind is not type(None)]
        elif isinstance(part, int):
            here = [
                item
                for kind in here
                for argument in get_args(kind)
                if argument is not Ellipsis
                for item in member_types(argument)
            ]
        elif models and len(here) == 1:
            owner, here = models[0], []  # an unknown key
        elif get_origin(here[0]) is dict if here else True:
            here = []  # a key of a free mapping
        else:
            continue  # the name of a union's branch
        path.append(str(part))
    return tuple(path), owner


def _message(item: dict[str, Any], owner: type[BaseModel]) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(str(item["loc"][-1]), owner.model_fields)
    if kind == "missing":
        return "is missing"
    if kind == "literal_error":
        near = suggestion(value, _quoted(context["expected"])) if isinstance(value, str) else ""
        return f"must be {context['expected']}, not {show(value)}{near}"
    if kind == "string_type":
        quotes = "" if value is None or isinstance(value, (dict, list)) else "; put it in quotes"
        return f"must be a string, not {show(value)}{quotes}"
    if kind == "string_pattern_mismatch":
        return f"{show(value)} does not match {context['pattern']}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]}, not {show(value)}"
    if kind == "value_error":
        return (
            f"{context['error']}, not {show(value)}" if _is_plain(value) else str(context["error"])
        )
    return f"must be {_wanted(kind, item['msg'])}, not {show(value)}"


def _wanted(kind: str, message: str) -> str:
    if kind in _NUMBER_TYPES:
        return "a whole number"
    if kind in _FLOAT_TYPES:
        return "a number"
    if kind == "finite_number":
        return "a finite number"
    if kind.startswith("bool_"):
        return "true or false"
    if kind in _MAPPING_TYPES:
        return "a mapping of keys to values"
    if kind in {"tuple_type", "list_type"}:
        return "a list"
    return message.removeprefix("Input should be ").removesuffix(".")


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


def _quoted(expected: str) -> list[str]:
    return expected.split("'")[1::2]


def _either(messages: list[str]) -> str:
    """Joins what the branches of a union say: each says `must be A, not X` of the same X."""
    parts = [message.removeprefix("must be ").rpartition(", not ") for message in messages]
    if len(messages) > 1 and all(wanted for wanted, _, _ in parts):
        return f"must be {' or '.join(wanted for wanted, _, _ in parts)}, not {parts[0][2]}"
    return ", or ".join(messages)

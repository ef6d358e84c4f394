"""`SIMILARITY_MODELS__<NAME>__<FIELD>`: one variable sets one field of one model.

A name is matched without regard to case, with `-` and `.` as `_`, because variable names can hold
neither. Knows what fields a spec has, and validates none of their values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from serve_app.config.document import Document
from serve_app.config.faults import Origin, Path, member_types
from serve_app.config.settings import OVERRIDE_PREFIX
from serve_app.config.spec import ModelSpec
from serve_app.config.text import parse_value
from serve_app.errors import ConfigError, Fault

_JOINT = "__"


def environment_name(name: str) -> str:
    """A model's name as it stands in a variable: `ViT-B.32` is `VIT_B_32`."""
    return name.upper().replace("-", "_").replace(".", "_")


def split_override(variable: str, names: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """The models and fields that a variable can mean.

    Args:
        variable: For example `SIMILARITY_MODELS__FAST__PERFORMANCE__MAX_BATCH`.
        names: The declared names.

    Returns:
        Name and path of each reading. A declared name goes before a new one, a reading whose
        first key is a field of a spec before others; several mean that it is ambiguous, none that
        it names no field.
    """
    rest = variable.removeprefix(OVERRIDE_PREFIX)
    readings: list[tuple[str, Path]] = []
    for name in names:
        prefix = environment_name(str(name)) + _JOINT
        if rest.upper().startswith(prefix) and len(rest) > len(prefix):
            readings.append((name, _fields(rest[len(prefix) :])))
    known = [reading for reading in readings if reading[1][0] in ModelSpec.model_fields]
    if readings:
        return known or readings
    name, joint, fields = rest.partition(_JOINT)
    return [(name.lower(), _fields(fields))] if name and joint and fields else []


def apply_overrides(document: Document, overrides: Mapping[str, str]) -> Document:
    """Sets the fields that variables name; what is wrong joins the document's faults."""
    models: dict[str, Any] = deepcopy(dict(document.models))
    places = dict(document.places)
    faults = list(document.faults)
    targets: dict[tuple[str, ...], str] = {}
    for variable, path in _ordered(overrides, document.models, faults):
        if path in targets:
            faults.append(Fault(variable, f"sets the same field as {targets[path]}"))
            continue
        targets[path] = variable
        try:
            value = _value(overrides[variable], path[1:], variable)
        except ConfigError as error:
            faults.extend(error.faults)
            continue
        if path[0] not in models:
            declared_as = variable.removeprefix(OVERRIDE_PREFIX).partition(_JOINT)[0]
            places[path[:1]] = f"{OVERRIDE_PREFIX}{declared_as.upper()}{_JOINT}"
        message = _set(models, path, value)
        if message:
            faults.append(Fault(variable, message))
        else:
            places[path] = variable
    return replace(document, models=models, places=places, faults=tuple(faults))


def _ordered(
    overrides: Mapping[str, str], names: Mapping[str, Any], faults: list[Fault]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The unambiguous overrides, those of whole blocks before those inside them."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for variable in sorted(overrides):
        readings = split_override(variable, names)
        if not readings:
            faults.append(Fault(variable, f"must be called {OVERRIDE_PREFIX}<NAME>__<FIELD>"))
        elif len(readings) > 1:
            meant = ", ".join(".".join((name, *fields)) for name, fields in readings)
            faults.append(Fault(variable, f"can mean each of {meant}; rename a model"))
        else:
            found.append((variable, (readings[0][0], *readings[0][1])))
    yield from sorted(found, key=lambda item: len(item[1]))


def _fields(text: str) -> Path:
    return tuple(text.lower().split(_JOINT))


def _value(text: str, fields: Path, variable: str) -> Any:
    if not text.strip():
        raise ConfigError((Fault(variable, "is empty; unset it to leave the field alone"),))
    if _is_text(fields):
        return text  # `1e5`, `007` or a checksum of digits only are not numbers here
    return parse_value(text, Origin(variable))


def _is_text(fields: Path) -> bool:
    """Whether the field takes nothing but a string."""
    kinds: list[Any] = [ModelSpec]
    for field in fields:
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        annotations = [
            model.model_fields[field].annotation for model in models if field in model.model_fields
        ]
        kinds = [kind for annotation in annotations for kind in member_types(annotation)]
    wanted = [kind for kind in kinds if kind is not type(None)]
    return bool(wanted) and all(
        kind is str
        or (get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind)))
        for kind in wanted
    )


def _set(models: dict[str, Any], path: tuple[str, ...], value: Any) -> str | None:
    """Sets a nested value; returns what is wrong where a part of the path is no mapping."""
    here = models
    for depth, key in enumerate(path[:-1]):
        if here.get(key) is None:  # absent, or a bare `fast:` in YAML
            here[key] = {}
        if not isinstance(here[key], dict):
            return f"cannot be set: {'.'.join(path[: depth + 1])} is not a mapping"
        here = here[key]
    here[path[-1]] = value
    return None

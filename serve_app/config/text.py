"""Reads YAML or JSON that a person wrote, strictly; knows nothing of what the keys mean.

Stricter than PyYAML, which takes the last of two equal keys without a word, lets aliases multiply
a short text into gigabytes, and makes keys of numbers and booleans.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import yaml

from serve_app.config.faults import LocatedMessage, Origin, Path, show
from serve_app.errors import ConfigError, Fault

MAX_BYTES = 2**20
"""Most bytes of a document; a ConfigMap holds no more either."""

MAX_DEPTH = 32
"""Most mappings and lists inside each other."""

_STRING_TAG = "tag:yaml.org,2002:str"
_MAPPING_TAG = "tag:yaml.org,2002:map"
_SEQUENCE_TAG = "tag:yaml.org,2002:seq"
_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A mapping, and the faults that did not keep it from being read.

    Attributes:
        value: Plain data with string keys.
        messages: Keys given twice or not strings, each with its path.
    """

    value: dict[str, Any]
    messages: tuple[LocatedMessage, ...]


def read_text(path: FilePath, key: str) -> str:
    """Reads a small UTF-8 file.

    Args:
        path: The file.
        key: What faults are named by.

    Raises:
        ConfigError: It is absent, not a file, unreadable, too large, or not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            raise ConfigError((Fault(key, f"{path} is not a file"),))
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        message = f"there is no file {path}; is it mounted, is its name right?"
        raise ConfigError((Fault(key, message),)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError((Fault(key, f"{path} cannot be read: {reason}"),)) from error
    if len(content) > MAX_BYTES:
        raise ConfigError((Fault(key, f"{path} has more than {MAX_BYTES} bytes"),))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}"
        raise ConfigError((Fault(key, message),)) from error


def parse_mapping(text: str, origin: Origin) -> Parsed:
    """Reads a YAML or JSON mapping.

    Raises:
        ConfigError: There is no mapping to go on with: bad syntax (with line and column), empty,
            another kind of value, too large, too deep, or with aliases.
    """
    if len(text) > MAX_BYTES:
        raise _refused(origin, f"has more than {MAX_BYTES} characters")
    if not text.strip():
        raise _refused(origin, "is empty; a mapping of names to values is expected")
    messages: list[LocatedMessage] = []
    value = _parse(text, origin, messages)
    if value is None:
        raise _refused(origin, "is empty; a mapping of names to values is expected")
    if not isinstance(value, dict):
        raise _refused(origin, f"must be a mapping of names to values, not {show(value)}")
    return Parsed(value, tuple(messages))


def parse_value(text: str, origin: Origin) -> Any:
    """Reads a YAML or JSON value of any kind.

    Raises:
        ConfigError: It cannot be read, or has keys that are given twice or not strings.
    """
    messages: list[LocatedMessage] = []
    value = _parse(text, origin, messages)
    if messages:
        raise ConfigError(tuple(Fault(origin.key(path), message) for path, message in messages))
    return value


class _Pairs(list[tuple[str, Any]]):
    """A JSON object before equal keys are merged."""


def _parse(text: str, origin: Origin, messages: list[LocatedMessage]) -> Any:
    if text.lstrip().startswith("{"):
        # JSON is not quite YAML (tabs, `\/`, 1e9), so what is JSON is read as JSON.
        try:
            pairs = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            pass  # YAML's flow form starts alike, and its faults have a line and column too
        else:
            return _from_json(pairs, (), messages, origin)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else _from_yaml(loader, node, (), messages)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f"{error.context}, " if error.context else ""
        raise _refused(origin, f"is not YAML: {where}{context}{error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise _refused(origin, f"is not YAML: {str(error).splitlines()[0]}") from error


class _Loader(yaml.SafeLoader):
    """Composes nodes without aliases and without deep nesting."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        problem = None
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) are not allowed; write the values out"
        elif self._depth >= MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} mappings and lists inside each other"
        if problem:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


def _from_yaml(loader: _Loader, node: yaml.Node, path: Path, messages: list[LocatedMessage]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _MAPPING_TAG:
        return _mapping(loader, node, path, messages)
    if isinstance(node, yaml.SequenceNode) and node.tag == _SEQUENCE_TAG:
        return [
            _from_yaml(loader, item, (*path, str(index)), messages)
            for index, item in enumerate(node.value)
        ]
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_object(node)
    raise yaml.constructor.ConstructorError(
        None, None, f"tag {node.tag} is not allowed", node.start_mark
    )


def _mapping(
    loader: _Loader, node: yaml.MappingNode, path: Path, messages: list[LocatedMessage]
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            messages.append((path, f"line {line}: a key must be a string, not a collection"))
            continue
        key = str(key_node.value)
        if key_node.tag == _MERGE_TAG:
            messages.append(((*path, key), "merging (<<) is not allowed; write the values out"))
            continue
        if key_node.tag != _STRING_TAG:
            kind = str(key_node.tag).rpartition(":")[2]
            message = (
                f"line {line}: the key {key} is of kind {kind}, not a string; put it in quotes"
            )
            messages.append(((*path, key), message))
        value = _from_yaml(loader, value_node, (*path, key), messages)
        if key in result:
            message = f"is given twice, in lines {lines[key]} and {line}"
            messages.append(((*path, key), message))
            continue
        result[key], lines[key] = value, line
    return result


def _from_json(value: Any, path: Path, messages: list[LocatedMessage], origin: Origin) -> Any:
    if len(path) > MAX_DEPTH:
        raise _refused(origin, f"has more than {MAX_DEPTH} mappings and lists inside each other")
    if isinstance(value, _Pairs):
        result: dict[str, Any] = {}
        for key, item in value:
            plain = _from_json(item, (*path, key), messages, origin)
            if key in result:
                messages.append(((*path, key), "is given twice"))
            result.setdefault(key, plain)
        return result
    if isinstance(value, list):
        return [
            _from_json(item, (*path, str(index)), messages, origin)
            for index, item in enumerate(value)
        ]
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refused(origin: Origin, message: str) -> ConfigError:
    return ConfigError((Fault(origin.key(), message),))

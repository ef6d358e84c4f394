from __future__ import annotations

import pickle
import re

import pytest

from serve_app import errors
from serve_app.errors import (
    ConfigError,
    Fault,
    ModelLoadError,
    ServeAppError,
    all_errors,
    error_from_code,
)

CLASSES = list(all_errors())


def make(kind: type[ServeAppError]) -> ServeAppError:
    if kind is ConfigError:
        return ConfigError((Fault("fast.pool", "unknown"), Fault("slow.device", "no GPU")))
    return kind("what is wrong")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_survives_pickling_with_arguments_and_detail(kind: type[ServeAppError]) -> None:
    error = make(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.args, copy.detail, str(copy)) == (error.args, error.detail, str(error))
    assert getattr(copy, "faults", None) == getattr(error, "faults", None)


def test_a_chained_cause_is_still_named_after_pickling() -> None:
    """Pickle drops `__cause__` of exceptions, so details must name it themselves."""
    try:
        try:
            raise OSError("disk is gone")
        except OSError as cause:
            raise ModelLoadError(f"fast cannot be loaded: {cause}") from cause
    except ModelLoadError as error:
        assert isinstance(error.__cause__, OSError)
        copy = pickle.loads(pickle.dumps(error))
    assert "disk is gone" in str(copy)


def test_codes_are_unique_and_snake_case() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_every_class_has_its_own_code_and_a_status_of_an_error() -> None:
    assert all("code" in vars(kind) for kind in CLASSES)
    assert all(400 <= kind.status_code < 600 for kind in CLASSES)
    assert all(kind.title for kind in CLASSES)


def drawn_tree() -> dict[str, str | None]:
    """Class name to parent, read from the drawing in the module's docstring."""
    parents: dict[str, str | None] = {}
    stack: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^((?:│   |    )*)(├── |└── )?([A-Z]\w*Error)\b", line)
        if not match:
            continue
        depth = len(match.group(1)) // 4 + (1 if match.group(2) else 0)
        stack[depth:] = [match.group(3)]
        parents[match.group(3)] = stack[depth - 1] if depth else None
    return parents


def test_the_drawn_tree_is_the_real_one() -> None:
    real = {
        kind.__name__: None if kind is ServeAppError else kind.__bases__[0].__name__
        for kind in CLASSES
    }
    assert drawn_tree() == real


def test_config_error_names_every_fault() -> None:
    error = make(ConfigError)
    assert str(error) == (
        "The configuration has 2 faults:\n  - fast.pool: unknown\n  - slow.device: no GPU"
    )
    assert str(ConfigError((Fault("a", "b"),))).startswith("The configuration has 1 fault:\n")


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if kind is not ConfigError], ids=lambda kind: kind.__name__
)
def test_an_error_is_rebuilt_from_its_code(kind: type[ServeAppError]) -> None:
    error = error_from_code(kind.code, "why")
    assert type(error) is kind
    assert error.detail == "why"


def test_an_unknown_code_is_not_lost() -> None:
    error = error_from_code("from_the_future", "why")
    assert type(error) is ServeAppError
    assert error.detail == "from_the_future: why"

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.config.declaration import declared_routing, read_declaration
from serve_app.config.defaults import default_document
from serve_app.errors import ConfigError

MODELS = "fast: {architecture: ViT-B-32, pretrained: openai}"
ROUTING = "{default: fast}"


def test_with_nothing_set_the_demo_is_declared_and_no_routing() -> None:
    declared = read_declaration({})
    assert declared.models == default_document()
    assert declared.routing is None
    assert declared_routing({}) is None


def test_models_and_routing_are_read_from_one_environment(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ROUTING)
    for variables in ({"SIMILARITY_ROUTING": ROUTING}, {"SIMILARITY_ROUTING_FILE": str(path)}):
        declared = read_declaration({"SIMILARITY_MODELS": MODELS, **variables})
        assert list(declared.models.models) == ["fast"]
        assert declared.routing is not None
        assert declared.routing.raw == {"default": "fast"}


def test_routing_that_cannot_be_read_does_not_hide_the_models() -> None:
    declared = read_declaration({"SIMILARITY_MODELS": MODELS, "SIMILARITY_ROUTING": ""})
    assert list(declared.models.models) == ["fast"]
    assert declared.routing is not None
    assert [fault.key for fault in declared.routing.faults] == ["SIMILARITY_ROUTING"]


def test_what_cannot_be_read_at_all_is_named_together_and_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_declaration({"SIMILARITY_MODELS": "", "SIMILARITY_ROUTING": "[]"})
    keys = [fault.key for fault in caught.value.faults]
    assert keys == ["SIMILARITY_MODELS", "SIMILARITY_ROUTING"]
    with pytest.raises(ConfigError) as caught:
        read_declaration({"SIMILARITY_ROUTING": ROUTING, "SIMILARITY_ROUTING_FILE": "x.yaml"})
    assert [fault.key for fault in caught.value.faults] == ["SIMILARITY_ROUTING_FILE"]

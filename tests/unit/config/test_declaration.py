from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from serve_app.config.access import key_digest
from serve_app.config.declaration import (
    configuration_from_environment,
    declared_routing,
    read_declaration,
)
from serve_app.config.defaults import default_document
from serve_app.config.sources import FileSource
from serve_app.errors import ConfigError, Fault

TOKEN = "a token of twenty six chars"
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


def test_the_state_and_the_token_are_read_and_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models.yaml").write_text("a: {}")
    environ = {
        "SIMILARITY_ADMIN_TOKEN": TOKEN,
        "SIMILARITY_STATE_URL": "sqlite:///state.db",
        "SIMILARITY_MODELS_FILE": "models.yaml",
    }
    found = configuration_from_environment(environ)
    assert (found.access.admin, found.state_url) == (
        key_digest(TOKEN),
        f"sqlite:///{tmp_path}/state.db",
    )
    assert TOKEN not in repr(found)
    assert isinstance(found.models, FileSource)
    assert found.models.path == tmp_path / "models.yaml"
    monkeypatch.chdir("/")
    assert list(pickle.loads(pickle.dumps(found)).models.read().models) == ["a"]


def test_a_token_and_a_state_alone_leave_the_demo_models() -> None:
    environ = {"SIMILARITY_ADMIN_TOKEN": TOKEN, "SIMILARITY_STATE_URL": "sqlite:////tmp/state.db"}
    assert list(read_declaration(environ).models.models) == ["demo", "demo-lite"]
    assert configuration_from_environment(environ).models == default_document()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"SIMILARITY_ADMIN_TOKEN": "short-secret"}, ["has 12 characters", "needs SIMILARITY"]),
        ({"SIMILARITY_ADMIN_TOKEN": ""}, ["has 0 characters"]),
        ({"SIMILARITY_ADMIN_TOKEN": "long enough to be one"}, ["needs SIMILARITY_STATE_URL"]),
        ({"SIMILARITY_STATE_URL": "redis://here"}, ["must be sqlite:///PATH, not 'redis://here'"]),
        ({"SIMILARITY_STATE_URL": "sqlite:///"}, ["names no file"]),
        ({"SIMILARITY_STATE_URL": "sqlite:///:memory:"}, ["names no file"]),
        ({"SIMILARITY_STATE": "sqlite:////x"}, ["unknown variable"]),
    ],
)
@pytest.mark.parametrize("models", [{}, {"SIMILARITY_MODELS": "a: {}"}])
def test_faults_of_operating_are_named(
    environ: dict[str, str], told: list[str], models: dict[str, str]
) -> None:
    faults: list[Fault] = []
    try:
        faults += read_declaration({**environ, **models}).models.faults
    except ConfigError as error:
        faults += error.faults
    said = " ".join(map(str, faults))
    assert all(words in said for words in told), said
    assert "short-secret" not in said

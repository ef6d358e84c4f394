from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from serve_app.config.faults import Origin
from serve_app.config.routing_source import (
    FileRoutingSource,
    RoutingDocument,
    routing_source_from_environment,
)
from serve_app.config.settings import read_environment
from serve_app.config.sources import source_from_environment
from serve_app.errors import ConfigError

ROUTING = "default: fast\naliases: {cheap: fast}\n"


def read(**environ: str) -> RoutingDocument:
    source = routing_source_from_environment(environ)
    assert source is not None
    return source.read()


def refused(**environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    return {fault.key: fault.message for fault in caught.value.faults}


def test_nothing_set_is_no_source() -> None:
    assert routing_source_from_environment({"SIMILARITY_MODELS": "a: {}"}) is None


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILARITY_ROUTING", ROUTING)
    source = routing_source_from_environment()
    assert source is not None
    assert source.read().raw == {"default": "fast", "aliases": {"cheap": "fast"}}


def test_yaml_and_json_from_a_variable_and_a_file(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ROUTING)
    as_json = '{"default": "fast", "aliases": {"cheap": "fast"}}'
    from_file = read(SIMILARITY_ROUTING_FILE=str(path))
    assert read(SIMILARITY_ROUTING=ROUTING) == read(SIMILARITY_ROUTING=as_json)
    assert read(SIMILARITY_ROUTING=ROUTING).raw == from_file.raw
    assert read(SIMILARITY_ROUTING=ROUTING).key(("default",)) == "SIMILARITY_ROUTING.default"
    assert from_file.key(("aliases", "cheap")) == "routing.yaml:aliases.cheap"


def test_documents_and_sources_cross_process_boundaries(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ROUTING)
    for environ in ({"SIMILARITY_ROUTING": ROUTING}, {"SIMILARITY_ROUTING_FILE": str(path)}):
        source = routing_source_from_environment(environ)
        assert source is not None
        assert pickle.loads(pickle.dumps(source)).read() == source.read()
        assert pickle.loads(pickle.dumps(source.read())) == source.read()


def test_both_at_once_is_a_fault_here_and_where_models_are_read() -> None:
    both = {"SIMILARITY_ROUTING": ROUTING, "SIMILARITY_ROUTING_FILE": "routing.yaml"}
    expected = {
        "SIMILARITY_ROUTING_FILE": "is set together with SIMILARITY_ROUTING; set one of them"
    }
    assert refused(**both, SIMILARITY_ZEBRA="x") == expected
    with pytest.raises(ConfigError, match="SIMILARITY_ROUTING_FILE: is set together"):
        source_from_environment(both)


@pytest.mark.parametrize("text", ["", " \n", "# nothing\n", "null"])
def test_empty_is_a_fault_and_not_no_routing(text: str, tmp_path: Path) -> None:
    assert refused(SIMILARITY_ROUTING=text)["SIMILARITY_ROUTING"].startswith("is empty")
    path = tmp_path / "routing.yaml"
    path.write_text(text)
    assert refused(SIMILARITY_ROUTING_FILE=str(path))["routing.yaml"].startswith("is empty")


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_a_fault(path: str) -> None:
    found = refused(SIMILARITY_ROUTING_FILE=path)
    assert found == {"SIMILARITY_ROUTING_FILE": "is empty; give the path of a file, or unset it"}


def test_a_file_is_read_anew_and_its_loss_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "routing.yaml"
    path.write_text(ROUTING)
    source = FileRoutingSource(path)
    assert source.read().raw["default"] == "fast"
    path.write_text("default: slow\n")
    assert source.read().raw == {"default": "slow"}
    path.write_text("")
    with pytest.raises(ConfigError, match=r"routing\.yaml: is empty"):
        source.read()
    path.unlink()
    with pytest.raises(ConfigError, match=r"routing\.yaml: there is no file"):
        source.read()


def test_what_is_no_mapping_is_refused() -> None:
    assert "must be a mapping" in refused(SIMILARITY_ROUTING="[fast]")["SIMILARITY_ROUTING"]
    assert "is not YAML: line 1" in refused(SIMILARITY_ROUTING="{a: [")["SIMILARITY_ROUTING"]


def test_faults_that_leave_something_to_go_on_with_travel_in_the_document() -> None:
    document = read(SIMILARITY_ROUTING="default: a\ndefault: b\naliases: {1: a}\n")
    assert document.raw == {"default": "a", "aliases": {"1": "a"}}
    assert document.origin == Origin("SIMILARITY_ROUTING")
    assert [fault.key for fault in document.faults] == [
        "SIMILARITY_ROUTING.default",
        "SIMILARITY_ROUTING.aliases.1",
    ]


def test_routing_alone_declares_no_model() -> None:
    environ = {"SIMILARITY_ROUTING": ROUTING}
    assert source_from_environment(environ) is None
    settings = read_environment(environ)
    assert not settings.declares
    assert (settings.routing, settings.routing_file) == (ROUTING, None)
    assert settings.faults == ()

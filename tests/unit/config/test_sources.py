from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from serve_app.config.defaults import default_document
from serve_app.config.settings import SETTINGS, read_environment
from serve_app.config.sources import (
    Document,
    EnvironmentSource,
    FileSource,
    declared_models,
    source_from_environment,
)
from serve_app.errors import ConfigError

MODELS = "fast: {architecture: ViT-B-32, pretrained: openai}\n"


def read(**environ: str) -> Document:
    source = source_from_environment(environ)
    assert source is not None
    return source.read()


def refused(**environ: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    return {fault.key: fault.message for fault in caught.value.faults}


def faults(document: Document) -> dict[str, str]:
    return {fault.key: fault.message for fault in document.faults}


def overridden(models: str = MODELS, **variables: str) -> Document:
    return read(
        SIMILARITY_MODELS=models,
        **{f"SIMILARITY_MODELS__{name}": value for name, value in variables.items()},
    )


def test_nothing_set_means_the_demo_models() -> None:
    assert source_from_environment({"PATH": "/bin", "SIMILAR": "x"}) is None
    demo = default_document()
    assert list(demo.models) == ["demo", "demo-lite"]
    for name, spec in demo.models.items():
        assert spec["backend"] == "open_clip"
        assert spec["preload"] is True
        folder = Path(spec["pretrained"]).parent
        assert folder.parts[-3:] == ("serve_app", "demo", "weights")
        assert spec["architecture"] == str(folder / f"{name}.json")
        assert spec["pretrained"] == str(folder / f"{name}.safetensors")


def test_declared_models_are_the_source_or_the_demo() -> None:
    assert declared_models({}) == default_document()
    assert list(declared_models({"SIMILARITY_MODELS": MODELS}).models) == ["fast"]
    with pytest.raises(ConfigError):
        declared_models({"SIMILARITY_MODELS": ""})


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILARITY_MODELS", MODELS)
    source = source_from_environment()
    assert source is not None
    assert list(source.read().models) == ["fast"]


def test_keys_are_called_as_their_author_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    override = {"SIMILARITY_MODELS__FAST__PRECISION": "bf16"}
    from_variable = read(SIMILARITY_MODELS=MODELS, **override)
    from_file = read(SIMILARITY_MODELS_FILE=str(path), **override)
    for document, prefix in ((from_variable, "SIMILARITY_MODELS."), (from_file, "models.yaml:")):
        assert document.key(("fast", "pretrained")) == f"{prefix}fast.pretrained"
        assert document.key(("fast", "precision")) == "SIMILARITY_MODELS__FAST__PRECISION"
        assert document.models["fast"]["precision"] == "bf16"
        assert not document.faults


def test_documents_cross_process_boundaries() -> None:
    document = overridden(FAST__PRECISION="bf16")
    assert pickle.loads(pickle.dumps(document)) == document


@pytest.mark.parametrize(
    ("variable", "value", "path", "expected"),
    [
        ("FAST__PRECISION", "bf16", ("precision",), "bf16"),
        ("fast__Precision", "bf16", ("precision",), "bf16"),
        ("FAST__PERFORMANCE__MAX_BATCH", "8", ("performance", "max_batch"), 8),
        ("FAST__PERFORMANCE", "{max_batch: 8}", ("performance", "max_batch"), 8),
        ("FAST__PRELOAD", "true", ("preload",), True),
        ("FAST__PREPROCESSING__SIZE", "[224, 336]", ("preprocessing", "size"), [224, 336]),
        ("FAST__PREPROCESSING__RESIZE_MODE", "on", ("preprocessing", "resize_mode"), "on"),
        ("FAST__OPTIONS__QUICK_GELU", "true", ("options", "quick_gelu"), True),
        # What takes a string is never read as YAML.
        ("FAST__PRETRAINED", "1e5", ("pretrained",), "1e5"),
        ("FAST__ARCHITECTURE", "007", ("architecture",), "007"),
        ("FAST__SHA256", "1" * 64, ("sha256",), "1" * 64),
        ("FAST__PRIMARY", "null", ("primary",), "null"),
        ("FAST__POOL", "{a: b", ("pool",), "{a: b"),
    ],
)
def test_one_variable_sets_one_field(
    variable: str, value: str, path: tuple[str, ...], expected: Any
) -> None:
    document = overridden(**{variable: value})
    assert not document.faults
    here: Any = document.models["fast"]
    for key in path:
        here = here[key]
    assert here == expected
    assert document.key(("fast", *path)).startswith("SIMILARITY_MODELS__")
    assert document.models["fast"].get("architecture") in ("ViT-B-32", expected)


@pytest.mark.parametrize("name", ["vit-b.32", "vit_b-32", "vit-b-32"])
def test_names_match_as_variables_can_spell_them(name: str) -> None:
    document = overridden(f"{name}: {{}}\n", **{"VIT_B_32__POOL": "gpu"})
    assert document.models == {name: {"pool": "gpu"}}


def test_an_undeclared_name_declares_a_model() -> None:
    document = overridden(NEW_ONE__ARCHITECTURE="RN50")
    assert document.models["new_one"] == {"architecture": "RN50"}
    assert document.key(("new_one", "pretrained")) == "SIMILARITY_MODELS__NEW_ONE__PRETRAINED"
    assert document.key(("new_one",)) == "SIMILARITY_MODELS__NEW_ONE"


def test_a_block_is_set_before_what_is_inside_it() -> None:
    document = overridden(
        FAST__PERFORMANCE__BYTES="9", FAST__PERFORMANCE="{max_batch: 8, bytes: 1}"
    )
    assert document.models["fast"]["performance"] == {"max_batch": 8, "bytes": 9}


def test_the_longest_reading_with_a_known_field_is_meant() -> None:
    document = overridden("a: {}\na__b: {}\n", A__B__POOL="gpu")
    assert document.models == {"a": {}, "a__b": {"pool": "gpu"}}


def test_faults_of_overrides_are_all_named() -> None:
    document = overridden(
        "a-b: {}\na.b: {}\nfive: 5\nfast: {}\n",
        A_B__POOL="gpu",
        FIVE__POOL="gpu",
        FAST="{pool: gpu}",
        FAST__SEED="[1",
        FAST__POOL="a",
        fast__pool="b",
        FAST__DEVICE=" ",
    )
    found = faults(document)
    prefix = "SIMILARITY_MODELS__"
    assert set(found) == {
        f"{prefix}{name}"
        for name in ("A_B__POOL", "FIVE__POOL", "FAST", "FAST__SEED", "fast__pool", "FAST__DEVICE")
    }
    assert "can mean each of a-b.pool, a.b.pool" in found[f"{prefix}A_B__POOL"]
    assert "five is not a mapping" in found[f"{prefix}FIVE__POOL"]
    assert "SIMILARITY_MODELS__<NAME>__<FIELD>" in found[f"{prefix}FAST"]
    assert "line 1" in found[f"{prefix}FAST__SEED"]
    assert "same field as SIMILARITY_MODELS__FAST__POOL" in found[f"{prefix}fast__pool"]
    assert found[f"{prefix}FAST__DEVICE"].startswith("is empty")


def test_overrides_alone_stand_on_the_demo_models_they_name() -> None:
    document = read(SIMILARITY_MODELS__DEMO_LITE__PRELOAD="false")
    assert list(document.models) == ["demo", "demo-lite"]
    assert document.models["demo-lite"]["preload"] is False
    assert document.models["demo"] == default_document().models["demo"]


def test_overrides_alone_that_name_others_declare_only_those() -> None:
    document = read(SIMILARITY_MODELS__FAST__ARCHITECTURE="RN50")
    assert document.models == {"fast": {"architecture": "RN50"}}


def test_the_default_document_is_never_changed_by_overrides() -> None:
    read(SIMILARITY_MODELS__DEMO__PERFORMANCE__BYTES="1")
    assert "performance" not in default_document().models["demo"]


@pytest.mark.parametrize(
    "name", ["SIMILARITY_MODELS", "SIMILARITY_MODELS_FILE", "SIMILARITY_MODEL"]
)
def test_an_empty_variable_is_a_fault_of_that_variable(name: str) -> None:
    found = refused(**{name: ""})
    assert list(found) == [name]
    assert found[name].startswith("is empty")


def test_variables_that_exclude_each_other() -> None:
    both = refused(SIMILARITY_MODELS=MODELS, SIMILARITY_MODELS_FILE="models.yaml")
    assert "SIMILARITY_MODELS" in both["SIMILARITY_MODELS_FILE"]
    for other in ("SIMILARITY_MODELS", "SIMILARITY_MODELS_FILE", "SIMILARITY_MODELS__A__POOL"):
        found = refused(SIMILARITY_MODEL="RN50/openai", **{other: "x"})
        assert other in found["SIMILARITY_MODEL"]


def test_unknown_variables_are_named_with_the_nearest() -> None:
    found = refused(SIMILARITY_MODELLS="x", SIMILARITY_ZEBRA_STRIPES="y")
    assert found["SIMILARITY_MODELLS"] == "unknown variable; did you mean 'SIMILARITY_MODELS'?"
    assert set(found) == {"SIMILARITY_MODELLS", "SIMILARITY_ZEBRA_STRIPES"}


def test_unknown_variables_are_named_together_with_other_faults(tmp_path: Path) -> None:
    readable = read(SIMILARITY_MODELS=MODELS, SIMILARITY_MODELLS="x")
    assert list(faults(readable)) == ["SIMILARITY_MODELLS"]
    unreadable = refused(
        SIMILARITY_MODELS="[", SIMILARITY_MODELLS="x", SIMILARITY_MODELS__A__SEED="{"
    )
    assert set(unreadable) == {
        "SIMILARITY_MODELS",
        "SIMILARITY_MODELLS",
        "SIMILARITY_MODELS__A__SEED",
    }
    file = refused(SIMILARITY_MODELS_FILE=str(tmp_path / "m.yaml"), SIMILARITY_MODELLS="x")
    assert set(file) == {"m.yaml", "SIMILARITY_MODELLS"}


def test_faults_inside_a_document_have_their_key(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("fast: {pool: a, pool: b}\n1: {}\n")
    assert list(faults(FileSource(path).read())) == ["models.yaml:fast.pool", "models.yaml:1"]


def test_a_file_is_read_anew_and_its_loss_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(MODELS)
    source = FileSource(path)
    assert list(source.read().models) == ["fast"]
    path.write_text("slow: {}\n")
    assert list(source.read().models) == ["slow"]
    path.write_text("")
    with pytest.raises(ConfigError, match=r"models\.yaml: is empty"):
        source.read()
    path.unlink()
    with pytest.raises(ConfigError, match=r"models\.yaml: there is no file"):
        source.read()


def test_the_environment_source_is_frozen_when_built() -> None:
    environ = {"SIMILARITY_MODELS": MODELS}
    source = EnvironmentSource(environ)
    environ["SIMILARITY_MODELS"] = "slow: {}"
    assert list(source.read().models) == ["fast"]
    assert pickle.loads(pickle.dumps(source)).read() == source.read()


def test_the_table_of_settings_is_what_is_read() -> None:
    names = [setting.name for setting in SETTINGS]
    concrete = [name.replace("<NAME>", "A").replace("<FIELD>", "POOL") for name in names]
    assert not [fault for fault in read_environment(dict.fromkeys(concrete, "x")).faults
                if "unknown" in fault.message]  # fmt: skip
    assert all(setting.description.endswith(".") for setting in SETTINGS)

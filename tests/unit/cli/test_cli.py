"""Commands as a user runs them, on fake models that the environment declares."""

import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from serve_app import __version__
from serve_app.cli import app
from serve_app.config.access import ApiKey, key_digest, parse_keys
from serve_app.config.faults import Origin

MODELS = {
    "fake": {"backend": "serve_app.testing:FakeDualEncoder", "architecture": "fake"},
    "other": {"backend": "serve_app.testing:FakeDualEncoder", "pool": "gpu"},
    "broken": {
        "backend": "serve_app.testing:FakeDualEncoder",
        "options": {"fail_load": "the disk is on fire"},
    },
}
ROUTING = """
default: cheap
aliases: {cheap: other}
experiments: {trial: {arms: {fake: 90, other: 10}, sticky_by: "header:X-User", shadow: [other]}}
"""
SERVE_CONFIG = """
applications:
  - name: serve_app
    import_path: serve_app.app:build_app
    route_prefix: /
    args:
      pools: [{name: default, gpus: 0, replicas: {min_replicas: 1, max_replicas: 3}}]
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILARITY_MODELS", json.dumps(MODELS))
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (16, 16), color).save(folder / f"{color}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_json(*arguments: object, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def rows(output: str) -> dict[str, list[str]]:
    """Words of each line by its first word."""
    return {words[0]: words[1:] for line in output.splitlines() if (words := line.split())}


def test_scores_in_a_table(images: Path) -> None:
    result = run("score", images, "-t", "red", "-t", "blue")
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    assert found["image"] == ["red", "blue"]
    assert float(found["red.png"][0]) > float(found["red.png"][1])
    assert float(found["blue.png"][0]) < float(found["blue.png"][1])
    assert "model fake@" in result.stdout


def test_json_is_the_http_answer_with_what_its_indices_mean(images: Path) -> None:
    answer = run_json("score", images, "-t", "red", "--metric", "logit")
    assert answer["images"] == [str(images / "blue.png"), str(images / "red.png")]
    assert answer["texts"] == ["red"]
    assert answer["model"].startswith("fake@")
    assert [(item["image"], item["text"]) for item in answer["results"]] == [(0, 0), (1, 0)]
    assert answer["results"][1]["score"] > answer["results"][0]["score"]
    assert "logit" in answer["results"][0]["scores"]


def test_metrics_are_shown_by_name(images: Path) -> None:
    result = run(
        "score", images / "red.png", "-t", "red", "--metric", "logit", "--metric", "cosine"
    )
    assert "logit " in result.stdout
    assert "cosine " in result.stdout


def test_texts_from_a_file(images: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("﻿red\n\n  a yellow ball  \r\n", encoding="utf-8")
    answer = run_json("score", images, "--text", "blue", "--texts-file", file)
    assert answer["texts"] == ["blue", "red", "a yellow ball"]
    file.write_bytes(b"\xff\xfe\xfa")
    result = run("score", images, "--texts-file", file)
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_many_texts_become_a_list_best_first(images: Path) -> None:
    colors = ["black", "white", "green", "yellow", "blue", "[bold]red", "red"]
    options = [option for color in colors for option in ("-t", color)]
    result = run("score", images / "red.png", *options)
    assert result.exit_code == 0, result.output
    listed = [line.split() for line in result.stdout.splitlines()]
    values = [float(words[-1]) for words in listed if words and "." in words[-1][:-1]]
    assert len(values) == len(colors)
    assert values == sorted(values, reverse=True)
    assert "[bold]red" in result.stdout


def test_an_item_that_fails_is_shown_and_ends_with_1(images: Path) -> None:
    (images / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    result = run("score", images, "-t", "red", "-t", "blue")
    assert result.exit_code == 1
    found = rows(result.stdout)
    assert found["broken.jpg"] == ["image_undecodable"] * 2
    assert float(found["red.png"][0]) > 0
    assert result.stdout.count("error: broken.jpg: ") == 1
    answer = run_json("score", images, "-t", "red", code=1)
    assert answer["results"][1]["error"]["code"] == "image_undecodable"


def test_a_long_text_warns_once_or_fails(images: Path) -> None:
    text = "red " * 30
    result = run("score", images, "-t", text, "-t", "blue")
    assert result.exit_code == 0
    assert result.stdout.count("text_truncated") == 1
    assert "32" in result.stdout
    result = run("score", images, "-t", text, "--on-truncate", "error")
    assert result.exit_code == 1
    assert "text_too_long" in result.stdout


def test_more_images_than_a_request_takes(tmp_path: Path) -> None:
    for number in range(140):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number:03}.png")
    answer = run_json("score", tmp_path, "-t", "red", "-t", "blue")
    assert len(answer["results"]) == 280
    assert [item["image"] for item in answer["results"]][::2] == list(range(140))
    assert not any("error" in item for item in answer["results"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score", "{images}"], 2, "--text"),
        (["score", "absent.png", "-t", "x"], 2, "absent.png: there is no such file"),
        (["score", "{images}", "-t", "x", "-m", "nosuch"], 2, "no model 'nosuch'"),
        (["score", "{images}", "-t", "x", "--metric", "nosuch"], 2, "nosuch"),
        (["score", "{images}", "-t", "x", "-m", "broken"], 1, "on fire"),
        (["score", "{images}", "-t", "x", "--texts-file", "absent.txt"], 2, "absent.txt"),
        (["score", "{images}", "-t", "x", "--url", "nonsense"], 2, "nonsense"),
        (["score", "{images}", "-t", "x", "--on-truncate", "never"], 2, "never"),
        (["models", "--url", "http://127.0.0.1:9"], 1, "Cannot reach http://127.0.0.1:9"),
        (["models", "--nosuch"], 2, "--nosuch"),
        (["nosuch"], 2, "nosuch"),
    ],
)
def test_what_goes_wrong_is_told_on_stderr(
    images: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run(*(argument.format(images=images) for argument in arguments))
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_faults_of_the_environment_are_all_told(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMILARITY_MODELS", "{a: {precison: fp32}, b: {backend: nosuch}}")
    for arguments in (["models"], ["score", images, "-t", "x"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "SIMILARITY_MODELS.a.precison" in result.stderr
        assert "SIMILARITY_MODELS.b.backend" in result.stderr


def test_models_are_listed() -> None:
    result = run("models")
    assert result.exit_code == 0, result.output
    assert "default: fake" in result.stdout
    listed = run_json("models")["data"]
    assert [model["name"] for model in listed] == list(MODELS)
    assert listed[1]["pool"] == "gpu"
    assert all(f"{model['id']} " in result.stdout for model in listed)


def test_a_service_is_asked_with_url(images: Path, service_url: str) -> None:
    answer = run_json("score", images, "-t", "red", "-t", "blue", "--url", service_url)
    here = run_json("score", images, "-t", "red", "-t", "blue")
    assert [item["score"] for item in answer["results"]] == pytest.approx(
        [item["score"] for item in here["results"]], abs=1e-6
    )
    assert [m["name"] for m in run_json("models", "--url", service_url)["data"]] == [
        "fake",
        "pairs",
        "broken",
    ]
    result = run("models", "--url", service_url)
    assert "loaded" in result.stdout


def test_a_fine_models_document(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("a: {architecture: ViT-B-32, pretrained: /nowhere/a.pt, pool: gpu}")
    result = run("check-config", file)
    assert result.exit_code == 0, result.output
    assert "without faults" in result.stdout
    assert "gpu" in rows(result.stdout)[next(k for k in rows(result.stdout) if k.startswith("a@"))]
    assert "note: models.yaml:a.pretrained" in result.stdout
    document = run_json("check-config", file)
    assert (document["valid"], document["kind"]) == (True, "models")
    assert document["models"][0]["name"] == "a"
    assert document["notices"][0]["key"] == "models.yaml:a.pretrained"


def test_a_fine_serve_config(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(SERVE_CONFIG)
    result = run("check-config", file)
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["default"][0] == "1-3"
    document = run_json("check-config", file)
    assert document["kind"] == "serve"
    assert document["args"]["pools"][0]["name"] == "default"
    assert document["models"] == []


def test_models_of_a_serve_config_are_checked_against_its_pools(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    models = "{a: {architecture: ViT-B-32, pretrained: openai, pool: gpu}}"
    variables = f'    runtime_env: {{env_vars: {{SIMILARITY_MODELS: "{models}"}}}}\n'
    file.write_text(SERVE_CONFIG + variables)
    document = run_json("check-config", file, code=2)
    assert [fault["key"] for fault in document["faults"]] == ["SIMILARITY_MODELS.a.pool"]
    file.write_text(SERVE_CONFIG + variables.replace("gpu", "default"))
    assert run_json("check-config", file)["models"][0]["name"] == "a"


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("a: {precison: fp32}\nb: {backend: 3}", ["file.yaml:a.precison", "file.yaml:b.backend"]),
        (SERVE_CONFIG.replace("gpus", "gpu"), ["file.yaml:applications.0.args.pools.0.gpu"]),
        (SERVE_CONFIG + "route: /\n", ["file.yaml:route"]),
        ("", ["file.yaml"]),
    ],
)
def test_every_fault_of_a_file_is_named(tmp_path: Path, content: str, keys: list[str]) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(content)
    document = run_json("check-config", file, code=2)
    assert document["valid"] is False
    found = [fault["key"] for fault in document["faults"]]
    assert [key for key in found if key in keys] == keys, found
    result = run("check-config", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert all(f"  {key}: " in result.stderr for key in keys)


def test_routing_is_checked_with_the_models_and_shown(tmp_path: Path) -> None:
    models, routing = tmp_path / "models.yaml", tmp_path / "routing.yaml"
    models.write_text(json.dumps(MODELS))
    routing.write_text(ROUTING)
    result = run("check-config", models, "--routing", routing)
    assert result.exit_code == 0, result.output
    found = rows(result.stdout)
    assert found["trial"] == ["fake", "90", "%,", "other", "10", "%", "header:X-User", "other"]
    assert found["alias"] == ["cheap:", "other"]
    assert "what names no model goes to: cheap" in result.stdout
    assert "default: other" in result.stdout
    document = run_json("check-config", models, "--routing", routing)
    assert document["routing"]["experiments"]["trial"]["arms"] == {"fake": 90, "other": 10}
    assert [m["name"] for m in document["models"] if m["default"]] == ["other"]
    assert run_json("check-config", models)["routing"] is None
    models.write_text(json.dumps({**MODELS, "worse": {"backend": 3}}))
    routing.write_text(ROUTING.replace("90", "80").replace("cheap: other", "cheap: otter"))
    faults = run_json("check-config", models, "--routing", routing, code=2)["faults"]
    assert [fault["key"] for fault in faults] == [
        "models.yaml:worse.backend",
        "routing.yaml:aliases.cheap",
        "routing.yaml:experiments.trial.arms",
    ]


def test_routing_of_a_serve_config_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"

    def check(code: int = 0, **variables: str) -> Any:
        environment = json.dumps({"env_vars": variables})
        file.write_text(f"{SERVE_CONFIG}    runtime_env: {environment}\n")
        return run_json("check-config", file, code=code)

    models = json.dumps({name: {**MODELS[name], "pool": "default"} for name in ("fake", "other")})
    found = check(SIMILARITY_MODELS=models, SIMILARITY_ROUTING=ROUTING)
    assert found["routing"]["default"] == "cheap"
    wrong = ROUTING.replace("other: 10", "otter: 10")
    (fault,) = check(2, SIMILARITY_MODELS=models, SIMILARITY_ROUTING=wrong)["faults"]
    assert fault["key"] == "SIMILARITY_ROUTING.experiments.trial.arms.otter"
    # Without models, names are the cluster's to know; the rest is checked all the same.
    assert check(SIMILARITY_ROUTING=wrong)["models"] == []
    result = run("check-config", file)
    assert "is not known here" in result.stdout
    wrong = ROUTING.replace("90", "80")
    (fault,) = check(2, SIMILARITY_ROUTING=wrong)["faults"]
    assert fault["key"] == "SIMILARITY_ROUTING.experiments.trial.arms"
    (fault,) = check(2, SIMILARITY_ROUTING="")["faults"]
    assert fault["key"] == "SIMILARITY_ROUTING"
    refused = run("check-config", file, "--routing", file)
    assert refused.exit_code == 2
    assert "runtime_env" in refused.stderr


def test_the_default_is_what_routing_says(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMILARITY_ROUTING", ROUTING)
    assert [m["name"] for m in run_json("models")["data"] if m["default"]] == ["other"]
    answer = run_json("score", images, "-t", "red")
    assert (answer["model"].partition("@")[0], answer["experiment"]) == ("other", None)
    answer = run_json("score", images, "-t", "red", "--model", "trial")
    assert answer["experiment"]["name"] == "trial"
    # A default that is the control of an experiment: here it answers by itself.
    monkeypatch.setenv("SIMILARITY_ROUTING", "{experiments: {t: {arms: {fake: 0, other: 100}}}}")
    answer = run_json("score", images, "-t", "red")
    assert (answer["model"].partition("@")[0], answer["experiment"]) == ("fake", None)
    monkeypatch.setenv("SIMILARITY_ROUTING", "{default: nobody}")
    for command in (["score", images, "-t", "red"], ["models"], ["serve"]):
        result = run(*command)
        assert result.exit_code == 2
        assert "SIMILARITY_ROUTING.default" in result.stderr


def test_a_missing_file_to_check() -> None:
    result = run("check-config", "absent.yaml")
    assert result.exit_code == 2
    assert "absent.yaml" in result.stderr


def test_version_and_help() -> None:
    assert run("--version").stdout == f"serve-app {__version__}\n"
    commands = [command.callback.__name__ for command in app.registered_commands]
    assert {"serve", "score", "check_config"} <= set(commands)
    for words in (["models"], ["models", "pull"], ["models", "verify"], ["models", "warm"]):
        assert "--json" in run(*words, "--help").stdout
    for command in app.registered_commands:
        result = run((command.name or command.callback.__name__).replace("_", "-"), "--help")
        assert result.exit_code == 0
        assert "--json" in result.stdout or command.callback.__name__ in ("serve", "new_key")


def test_a_new_key_is_shown_once_and_its_line_holds_the_hash_alone() -> None:
    made = run("new-key", "team-a", "--role", "admin", "--requests-per-minute", "60")
    key = made.stderr.split()[-1]
    assert key not in made.stdout
    (read,) = parse_keys(made.stdout, Origin("KEYS"), operable=True)
    assert read == ApiKey("team-a", key_digest(key), "admin", 60)
    assert run("new-key", "team-a").stdout != made.stdout
    assert run("new-key", "No Name").exit_code == 2


def test_what_libraries_may_say_is_as_before_afterwards(images: Path) -> None:
    level, filters = logging.getLogger().level, list(warnings.filters)
    run("score", images, "-t", "red")
    assert logging.getLogger().level == level
    assert warnings.filters == filters


def test_scoring_keeps_ray_out_of_the_process(images: Path) -> None:
    program = (
        "import sys; from serve_app.cli import app\n"
        f"app(['score', {str(images)!r}, '-t', 'red', '--json'], standalone_mode=False)\n"
        "assert 'ray' not in sys.modules, 'ray was imported'\n"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["results"]) == 2


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from serve_app.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'open_clip', 'transformers', 'numpy', 'PIL', 'httpx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr

import json

import pytest
import typer
from typer.testing import CliRunner

from serve_app.bench.command import bench_command
from serve_app.bench.run import PARTS, BenchOptions, _args, _models, _write_config
from serve_app.config.child_environment import child_environment
from serve_app.config.serve_file import read_serve_config
from serve_app.config.settings import read_environment


def command():
    app = typer.Typer()
    app.command()(bench_command)
    return app


def test_help_names_the_options():
    result = CliRunner().invoke(command(), ["--help"], terminal_width=200)
    assert result.exit_code == 0
    for option in ("--quick", "--seconds", "--requests", "--replicas", "--threads", "--config"):
        assert option in result.output


def test_an_unknown_part_is_refused_before_anything_runs(tmp_path):
    output = tmp_path / "bench.json"
    result = CliRunner().invoke(command(), ["--only", "speed", "--output", str(output)])
    assert result.exit_code == 2
    assert "speed" in result.output
    assert not output.exists()


def test_the_generated_config_is_a_valid_serve_config(tmp_path):
    args = _args(BenchOptions(replicas=3, threads=2))
    read, _ = read_serve_config(_write_config(tmp_path / "serve.yaml", args))
    assert read == args
    (pool,) = read.pools
    assert (pool.replicas, pool.threads, pool.cpus) == (3, 2, 2)


def test_the_models_are_what_the_service_reads():
    environment = child_environment(models=_models(BenchOptions()), threads=1)
    settings = read_environment(environment)
    assert settings.faults == ()
    assert set(json.loads(settings.models or "")) == {"load"}
    assert environment["OMP_NUM_THREADS"] == "1"


def test_a_child_starts_with_no_settings_of_ours(monkeypatch):
    monkeypatch.setenv("SIMILARITY_MODEL", "ViT-B-32/laion2b_s34b_b79k")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = child_environment()
    assert not read_environment(environment).declares
    assert "OMP_NUM_THREADS" not in environment
    assert "RAY_AUTH_TOKEN" not in environment
    assert child_environment(ray_token="t")["RAY_AUTH_TOKEN"] == "t"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_documented(part, request):
    page = request.config.rootpath / "docs" / "benchmarks.md"
    assert f"`{part}`" in page.read_text(encoding="utf-8")

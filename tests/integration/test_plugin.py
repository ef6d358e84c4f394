"""The example package, as its README has it: installed, held to the contract, served."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

from serve_app.config.ray_environment import free_ports
from tests.integration.launched import BIN, ROOT, environment, started

EXAMPLE = ROOT / "examples" / "average-color"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables with which the package is found; pip has put it into a folder of its own."""
    folder = tmp_path_factory.mktemp("installed")
    copy = tmp_path_factory.mktemp("source") / EXAMPLE.name
    subprocess.run(["cp", "-r", str(EXAMPLE), str(copy)], check=True)  # pip builds beside it
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "--target", str(folder), str(copy)]
    subprocess.run(command, check=True)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    yield {"PYTHONPATH": path}


def test_it_keeps_the_contract(installed: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")],
        env=environment(**installed),
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    assert "passed" in run.stdout


def test_it_is_known_by_its_name(installed: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("colour: {backend: average_color}")
    command = [str(BIN / "serve-app"), "check-config", str(file)]
    for more, code in ((installed, 0), ({}, 2)):
        run = subprocess.run(
            command,
            env=environment(**more),
            capture_output=True,
            text=True,
        )
        assert run.returncode == code, run.stdout + run.stderr
    assert "unknown backend 'average_color'" in run.stdout + run.stderr


def test_it_is_served(installed: dict[str, str]) -> None:
    port = free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    words = {"words": {"ochre": [204, 119, 34]}}
    models = {"colour": {"backend": "average_color", "options": words}}
    variables = {"SIMILARITY_MODELS": yaml.safe_dump(models), **installed}
    with started("serve-app", "serve", "--port", str(port), **variables) as service:
        service.wait_ready(url)
        buffer = io.BytesIO()
        Image.new("RGB", (400, 300), (200, 120, 30)).save(buffer, format="JPEG")
        answer = httpx.post(
            f"{url}/v1/rank",
            files=[("image", ("wall.jpg", buffer.getvalue(), "image/jpeg"))],
            data={"text": ["a blue wall", "an ochre wall", "a wall"]},
        )
        assert [result["text"] for result in answer.json()["results"]] == [1, 2, 0]
        assert answer.json()["model"].startswith("colour@")
        told = httpx.get(f"{url}/v1/models/colour").json()
    assert told["backend"] == "average_color"
    assert told["capabilities"]["embedding_dim"] == 4

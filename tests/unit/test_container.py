"""The image cannot be built in a test; its Dockerfile is linted, and its steps are done here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def stage(name: str) -> str:
    """The instructions of a stage, lines that go on joined."""
    match = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", TEXT, re.M | re.S)
    assert match, name
    return match[1].replace("\\\n", " ")


def steps(name: str) -> list[str]:
    return re.findall(r"^RUN (.+)$", stage(name), re.M)


def test_the_dockerfile_has_no_complaints() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [str(hadolint), "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_both_builds_install_the_same() -> None:
    def installs(name: str) -> list[str]:
        commands = [" ".join(line.split()) for line in steps(name)[-1].split("&&")]
        return [command for command in commands if "torchvision" not in command]

    assert installs("build-cpu") == installs("build-cuda")


def test_what_runs_is_nobody_with_what_probes_need() -> None:
    runtime = stage("runtime")
    assert re.search(r"^USER 1000:1000$", runtime, re.M)
    assert "bash wget" in runtime
    assert "/readyz" in runtime and "HEALTHCHECK" in runtime
    assert "uninstall" in runtime, "pip of the base image"
    for name in ("cpu", "cuda"):
        assert steps(name) == [], "nothing is built in the result"
    version = re.search(r'__version__ = "(.+)"', (ROOT / "serve_app" / "version.py").read_text())
    assert version and f'image.version="{version[1]}"' in TEXT


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_is_installed_scores_and_has_no_tools_to_build(tmp_path: Path) -> None:
    """The steps of `build-cuda`, in a scratch environment, from a copy of what is copied."""
    home = tmp_path / "opt"
    source = tmp_path / "src"
    source.mkdir()
    for match in re.findall(r"^COPY (.+) (\S+)$", stage("build-cuda"), re.M):
        for name in match[0].split():
            path = ROOT / name
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, source / match[1], ignore=ignored)
            else:
                shutil.copy(path, source)
    kept = {key: os.environ[key] for key in ("HOME", "LANG") if key in os.environ}
    pip = {key: text for key, text in os.environ.items() if key.startswith("PIP_")}
    found = re.search(r"^ARG EXTRAS=(\S+)$", stage("build-cuda"), re.M)
    assert found
    environment = {
        **kept,
        **pip,
        "EXTRAS": found[1],
        "PATH": f"{home}/bin:{Path(sys.executable).resolve().parent}:/usr/bin:/bin",
    }
    for step in steps("build-cuda"):
        command = step.replace("/opt/serve-app", str(home))
        subprocess.run(
            ["bash", "-ec", command], cwd=source, env=environment, check=True, capture_output=True
        )
    shutil.rmtree(source)
    (torch,) = (home / "lib").glob("python3.*/site-packages/torch/__pycache__/__init__.*.pyc")
    # PEP 552: of the source's content, and not to be compared with it when it is read.
    assert int.from_bytes(torch.read_bytes()[4:8], "little") == 0b01

    python = home / "bin" / "python"
    listed = subprocess.run(
        [str(python), "-c", _LIST], cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    names = set(json.loads(listed.stdout))
    assert {"serve-app", "torch", "ray", "transformers", "s3fs"} <= names
    assert not {"pip", "setuptools", "wheel", "pytest", "mypy", "ruff"} & names

    image = ROOT / "examples" / "red-circle-left-of-blue-square.jpg"
    run = [str(home / "bin" / "serve-app"), "score", str(image), "--json"]
    texts = ["--text", "a red circle left of a blue square", "--text", "a green star"]
    scored = subprocess.run(
        [*run, *texts], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert scored.returncode == 0, scored.stderr
    shutil.rmtree(home)


_LIST = """
import importlib.metadata, json
print(json.dumps([one.metadata["Name"] for one in importlib.metadata.distributions()]))
"""

"""Sizes of what is installed, beside the files themselves."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

from serve_app.bench.installed import EXTRAS, installed_sizes

ROOT = Path(__file__).parents[3]


def files(name: str) -> int:
    paths = [Path(str(file.locate())) for file in distribution(name).files or ()]
    return sum(path.stat().st_size for path in paths if path.suffix != ".pyc" and path.is_file())


def test_a_package_is_counted_with_what_it_needs_each_once() -> None:
    """tenacity needs nothing; httpx needs what starlette's test client and others share."""
    assert installed_sizes("tenacity", ())["all"]["bytes"] == files("tenacity")
    found = installed_sizes("httpx", ())
    wanted = ("httpx", "anyio", "certifi", "httpcore", "idna", "h11", "typing_extensions")
    assert found["all"]["bytes"] == sum(map(files, wanted))
    assert found["others"] == found["all"] == found["without CUDA"]
    assert 0 < found["all"]["compressed"] < found["all"]["bytes"]


def test_an_extra_brings_more() -> None:
    plain, extra = installed_sizes("httpx", ()), installed_sizes("httpx", ("cli",))
    assert extra["all"]["bytes"] > plain["all"]["bytes"]


def test_the_extras_are_those_of_the_image() -> None:
    written = re.findall(r"^ARG EXTRAS=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert set(written) == {",".join(EXTRAS)}

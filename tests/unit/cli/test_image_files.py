from pathlib import Path

import pytest

from serve_app.cli.image_files import expand_images
from serve_app.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png", "sub/c.webp", ".cache/d.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def names(folder: Path, *arguments: str) -> list[str]:
    found = expand_images(str(folder / argument) for argument in arguments)
    return [str(path.relative_to(folder)) for path in found]


def test_a_folder_stands_for_the_images_below_it(folder: Path) -> None:
    assert names(folder, "") == ["a.JPG", "b.png", "sub/c.webp"]


def test_patterns_are_expanded_and_files_taken_as_they_are(folder: Path) -> None:
    assert names(folder, "*.png") == ["b.png"]
    assert names(folder, "**/*.webp") == ["sub/c.webp"]
    assert names(folder, "notes.txt") == ["notes.txt"]


def test_the_order_is_as_given_and_each_file_stands_once(folder: Path) -> None:
    assert names(folder, "b.png", "", "b.png") == ["b.png", "a.JPG", "sub/c.webp"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    (folder / "x[1].png").touch()
    assert names(folder, "x[1].png") == ["x[1].png"]


def test_everything_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        names(folder, "absent.png", "empty", "*.gif", "b.png")
    keys = [Path(fault.key).name for fault in caught.value.faults]
    assert keys == ["absent.png", "empty", "*.gif"]

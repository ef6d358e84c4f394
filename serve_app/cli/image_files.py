"""From the arguments on the command line to image files: folders and patterns are looked into."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

from serve_app.errors import ConfigError, Fault

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif", ".bmp"})
"""How files in a folder must end to be taken; a file that is named itself may end as it likes."""


def expand_images(arguments: Iterable[str]) -> list[Path]:
    """The files that arguments mean, each once, in the order given; folders' files sorted.

    Args:
        arguments: Files, folders (with what is below them) and patterns (`**` for any depth), for
            shells that do not expand them.

    Raises:
        ConfigError: What is not there, and folders and patterns without an image.
    """
    found: dict[Path, None] = {}
    faults: list[Fault] = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            files = _below(path)
            missing = "there is no image in this folder"
        elif path.exists():
            files, missing = [path], ""
        elif glob.has_magic(argument):
            matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - ~ and roots
            files = [Path(match) for match in matches if Path(match).is_file()]
            missing = "no file matches this pattern"
        else:
            files, missing = [], "there is no such file or folder"
        if not files:
            faults.append(Fault(argument, missing))
        found.update(dict.fromkeys(files))
    if faults:
        raise ConfigError(tuple(faults))
    return list(found)


def _below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )

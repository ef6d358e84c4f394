"""SHA-256 of files, remembered while a file stays the same; knows no source and no cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from serve_app.errors import ModelLoadError

_Identity = tuple[str, int, int, int]

_remembered: dict[_Identity, str] = {}
_MOST_REMEMBERED = 1024


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal.

    Remembered in this process by path, size, modification time and inode, because weights are
    large and a mounted file is looked at again at every change of the configuration.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        status = path.stat()
        identity = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
        if identity not in _remembered:
            if len(_remembered) >= _MOST_REMEMBERED:
                _remembered.clear()
            _remembered[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _remembered[identity]


def files_sha256(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the names (relative to `folder`) and contents of several files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def verify_sha256(path: Path, expected: str | None) -> str:
    """Returns a file's SHA-256.

    Raises:
        ModelLoadError: It is not the expected one; both are named.
        OSError: The file cannot be read.
    """
    actual = file_sha256(path)
    if expected is not None and actual != expected:
        raise ModelLoadError(
            f"The checksum of {path} does not match the spec: `sha256` is {expected}, the file's "
            f"is {actual}. Either the file is damaged or replaced, or the spec is out of date."
        )
    return actual

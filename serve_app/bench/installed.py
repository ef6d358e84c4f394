"""How large is what an image has installed: read off this environment, by groups of packages."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

_CUDA = ("nvidia-", "cuda-", "triton")
_CUDA_FILE = "cuda"
"""Is in the names of torch's own libraries for GPUs, which its wheels without CUDA lack."""

EXTRAS = ("siglip", "transformers", "remote", "s3", "otel")
"""What the Dockerfile installs."""

Sizes = dict[str, dict[str, int]]


def installed_sizes(name: str = "serve-app", extras: tuple[str, ...] = EXTRAS) -> Sizes:
    """Bytes of a package and of all that it needs.

    Args:
        name: The package.
        extras: Its extras.

    Returns:
        By group `bytes` on the disk and `compressed` by zlib, about as in a registry: `CUDA` (its
        packages, and the files of torch for it), `torch` (without), `ray`, `others`, `without CUDA`
        and `all`. Bytecode is left out.
    """
    paths: dict[str, list[Path]] = {"CUDA": [], "torch": [], "ray": [], "others": []}
    for found in _needed(name, extras):
        for path in _files(found):
            paths[_group(found.metadata["Name"], path)].append(path)
    sizes: Sizes = {}
    with ProcessPoolExecutor() as processes:
        for group, files in paths.items():
            compressed = processes.map(_compressed, files, chunksize=64)
            sizes[group] = {
                "bytes": sum(path.stat().st_size for path in files),
                "compressed": sum(compressed),
            }
    for total, groups in (("without CUDA", ("torch", "ray", "others")), ("all", tuple(paths))):
        sizes[total] = {
            key: sum(sizes[group][key] for group in groups) for key in ("bytes", "compressed")
        }
    return sizes


def _needed(name: str, extras: tuple[str, ...]) -> Iterator[Distribution]:
    """A package and all that it needs, each once, as far as it is installed."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    waiting, seen = [(name, frozenset(extras))], set[tuple[str, frozenset[str]]]()
    given: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(key[0])
        except PackageNotFoundError:  # for another platform
            continue
        if key[0] not in given:
            given.add(key[0])
            yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            wanted = ("", *key[1])
            if requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in wanted
            ):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))


def _files(found: Distribution) -> Iterator[Path]:
    for file in found.files or ():
        path = Path(str(file.locate()))
        if path.suffix != ".pyc" and path.is_file():
            yield path


def _group(package: str, path: Path) -> str:
    name = package.lower()
    if name.startswith(_CUDA) or (name == "torch" and _CUDA_FILE in path.name):
        return "CUDA"
    if name in ("torch", "torchvision"):
        return "torch"
    return "ray" if name.startswith("ray") else "others"


def _compressed(path: Path) -> int:
    size, packer = 0, zlib.compressobj(6)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(packer.compress(block))
    return size + len(packer.flush())

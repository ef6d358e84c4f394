"""Weights from other machines, kept on this one by their content; knows no model.

Several processes use one cache: a download is done by one while the others wait, what is not whole
never gets a name, and what is in use is not thrown away. The locks are the kernel's (flock), so a
process that is killed leaves none behind.

    addresses/<hash of address>.json    what was behind an address, and where it is
    blobs/<SHA-256>/<name>              a file
    trees/<SHA-256>/<files>             a folder
    partial/<hash of address>/          a download
    locks/                              of addresses, and of what is in use
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from serve_app.config.checkpoints import weights_file
from serve_app.config.declaration import CacheSettings
from serve_app.errors import ModelLoadError
from serve_app.weights.address import Address
from serve_app.weights.checksums import file_sha256, files_sha256
from serve_app.weights.remote import Listing, Progress, bring, look

logger = logging.getLogger(__name__)

_USED = ".used"
_GRAVE = ".thrown-away"

DEFAULT_FOLDER = Path("~/.cache/serve_app/weights")
"""Where weights are kept if nobody says."""


@dataclass(frozen=True, slots=True)
class CachedWeights:
    """Weights that are here.

    Attributes:
        path: The file, or the folder.
        sha256: Of the file; of a folder, of its one file of weights, empty where it has several.
        bytes: In all.
    """

    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class _Reference:
    """What was behind an address when it was last looked at."""

    address: str
    stamp: str
    entry: str
    sha256: str


def nothing(done: int, total: int | None) -> None:
    """A `Progress` that tells nobody."""


def cache_of(settings: CacheSettings) -> WeightsCache:
    """The cache that the settings tell of."""
    folder = DEFAULT_FOLDER if settings.folder is None else Path(settings.folder)
    return WeightsCache(folder.expanduser(), settings.max_bytes)


class WeightsCache:
    """A folder with weights.

    Args:
        folder: Is made when it is needed; on the disk where there is room.
        max_bytes: What is used least goes when there is more; None: no bound.
    """

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder = folder
        self._max_bytes = max_bytes

    @contextmanager
    def lease(
        self, address: Address, sha256: str | None = None, progress: Progress = nothing
    ) -> Iterator[CachedWeights]:
        """Weights, downloaded if they are not here, that stay here for the length of the block.

        Args:
            address: Where they are.
            sha256: What they must have; then nobody is asked where they are here already.
            progress: Is told of a download.

        Raises:
            MissingExtraError: A driver is not installed.
            ModelLoadError: They cannot be had, or are others than `sha256` says.
        """
        self._make()
        while True:
            entry = self._known(address, sha256) or self._fetched(address, sha256, progress)
            with self._using(entry):
                if not entry.is_dir():
                    continue  # thrown away between the look and the lock
                (entry / _USED).touch()
                path = self._content(entry)
                found = CachedWeights(path, self._sha256(path), _size(entry))
                if sha256 is not None and found.sha256 != sha256:
                    raise _other(address, sha256, found.sha256)
                yield found
                return

    def entries(self) -> list[Path]:
        """Everything that is here, what was used longest ago first."""
        found = [
            entry
            for kind in ("blobs", "trees")
            if (self.folder / kind).is_dir()
            for entry in (self.folder / kind).iterdir()
        ]
        return sorted(found, key=_used_at)

    def find(self, address: Address) -> CachedWeights | None:
        """What an address was when it was last looked at, if it is here; asks nobody."""
        reference = self._reference(address)
        entry = None if reference is None else self.folder / reference.entry
        if entry is None or not entry.is_dir():
            return None
        path = self._content(entry)
        return CachedWeights(path, self._sha256(path), _size(entry))

    def _known(self, address: Address, sha256: str | None) -> Path | None:
        """The entry of what has a name by its content, where a checksum says which."""
        if sha256 is None:
            return None
        if not address.folder:
            entry = self.folder / "blobs" / sha256
            return entry if entry.is_dir() else None
        reference = self._reference(address)
        if reference is None or reference.sha256 != sha256:
            return None
        entry = self.folder / reference.entry
        return entry if entry.is_dir() else None

    def _fetched(self, address: Address, sha256: str | None, progress: Progress) -> Path:
        with FileLock(self._lock(f"{_hash(address)}.fetch")):
            known = self._known(address, sha256)  # by who had the lock before
            if known is not None:
                return known
            reference = self._reference(address)
            try:
                listing = look(address)
            except ModelLoadError:
                kept = None if reference is None else self.folder / reference.entry
                if sha256 is not None or kept is None or not kept.is_dir():
                    raise
                logger.warning("%s cannot be reached; what it was is used", address.text)
                return kept
            if reference is not None and reference.stamp == listing.stamp:
                kept = self.folder / reference.entry
                if kept.is_dir() and sha256 in (None, reference.sha256):
                    return kept
            return self._download(address, listing, sha256, progress)

    def _download(
        self, address: Address, listing: Listing, sha256: str | None, progress: Progress
    ) -> Path:
        size = listing.size
        if self._max_bytes is not None and size is not None and size > self._max_bytes:
            raise ModelLoadError(
                f"{address.text} has {size:,} bytes, and the cache may hold {self._max_bytes:,} "
                "(SIMILARITY_CACHE_BYTES)."
            )
        partial = self.folder / "partial" / _hash(address)
        # What is there was left by a process that ended in the middle: this one has the lock.
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            self._make_room(size or 0)
            bring(address, listing, partial, progress)
            found = self._sha256(self._content(partial) if not address.folder else partial)
            if sha256 is not None and found != sha256:
                raise _other(address, sha256, found)
            if address.folder:
                files = [path for path in partial.rglob("*") if path.is_file()]
                entry = self.folder / "trees" / files_sha256(partial, files)
            else:
                entry = self.folder / "blobs" / found
            (partial / _USED).touch()
            _sync(partial)
            _name(partial, entry)
        except OSError as error:
            raise ModelLoadError(
                f"{address.text} cannot be kept in {self.folder}: {error.strerror or error}. Make "
                "room there, or name another folder in SIMILARITY_CACHE_DIR."
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._remember(
            address,
            _Reference(address.text, listing.stamp, str(entry.relative_to(self.folder)), found),
        )
        self._make_room(0, spared=entry)
        return entry

    def _make_room(self, wanted: int, spared: Path | None = None) -> None:
        """Throws away what was used longest ago and is not in use, until there is room."""
        if self._max_bytes is None:
            return
        entries = self.entries()
        held = sum(map(_size, entries))
        for entry in entries:
            if held + wanted <= self._max_bytes:
                return
            if entry == spared:
                continue
            size = _size(entry)
            if self._throw_away(entry):
                held -= size

    def _throw_away(self, entry: Path) -> bool:
        with self._lock_file(f"{entry.name}.use") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False  # somebody loads from it
            grave = self.folder / "partial" / f"{entry.name}{_GRAVE}"
            # What a process left that was killed at this; nobody else has the lock.
            shutil.rmtree(grave, ignore_errors=True)
            if not entry.is_dir():
                return True  # another process was faster
            entry.rename(grave)  # at once, so that nobody sees half of it
            shutil.rmtree(grave, ignore_errors=True)
            logger.info("%s was thrown away: the cache is full", entry.name)
            return True

    @contextmanager
    def _using(self, entry: Path) -> Iterator[None]:
        with self._lock_file(f"{entry.name}.use") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextmanager
    def _lock_file(self, name: str) -> Iterator[int]:
        descriptor = os.open(self._lock(name), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)  # which gives the lock back

    def _lock(self, name: str) -> str:
        return str(self.folder / "locks" / name)

    def _make(self) -> None:
        try:
            for part in ("addresses", "blobs", "trees", "partial", "locks"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelLoadError(
                f"The cache folder {self.folder} cannot be made: {error.strerror or error}. Name "
                "another in SIMILARITY_CACHE_DIR."
            ) from error

    def _content(self, entry: Path) -> Path:
        """The file of a blob; the folder itself of a tree."""
        if entry.parent.name == "trees":
            return entry
        files = [path for path in entry.iterdir() if path.name != _USED]
        if len(files) != 1:
            raise ModelLoadError(f"{entry} in the cache should hold one file; remove it.")
        return files[0]

    def _sha256(self, path: Path) -> str:
        file = path if path.is_file() else weights_file(str(path))
        return "" if file is None else file_sha256(file)

    def _reference(self, address: Address) -> _Reference | None:
        path = self.folder / "addresses" / f"{_hash(address)}.json"
        try:
            return _Reference(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _remember(self, address: Address, reference: _Reference) -> None:
        path = self.folder / "addresses" / f"{_hash(address)}.json"
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(asdict(reference)), encoding="utf-8")
        new.replace(path)


def _hash(address: Address) -> str:
    return hashlib.sha256(address.text.encode()).hexdigest()[:32]


def _name(partial: Path, entry: Path) -> None:
    """Gives a download its name, unless the same content has it already, from anywhere."""
    try:
        partial.rename(entry)
    except OSError:
        if not entry.is_dir():
            raise


def _size(entry: Path) -> int:
    try:
        return sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
    except OSError:
        return 0  # it is being thrown away


def _used_at(entry: Path) -> float:
    try:
        return (entry / _USED).stat().st_mtime
    except OSError:
        return 0.0


def _sync(folder: Path) -> None:
    """Brings files onto the disk before they get their name: a name must not outlive a crash."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _other(address: Address, expected: str, found: str) -> ModelLoadError:
    return ModelLoadError(
        f"The checksum of {address.text} does not match the spec: `sha256` is {expected}, that of "
        f"what was downloaded is {found or 'not known, as there is not just one file of weights'}. "
        "Either it was replaced, or the spec is out of date."
    )

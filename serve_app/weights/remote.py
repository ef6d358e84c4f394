"""Files behind an address: what there is, and how it is brought here; knows no cache.

fsspec does the work. Its errors become those of the service, with what to do.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import tenacity

from serve_app.config.checkpoints import BESIDE_SUFFIXES, preferred_weights
from serve_app.errors import MissingExtraError, ModelLoadError
from serve_app.weights.address import Address

Progress = Callable[[int, int | None], None]
"""Is told bytes that are here and bytes in all, if they are known; quick, and never raises."""

Result = TypeVar("Result")

_LOCAL = (errno.EACCES, errno.ENOSPC, errno.EROFS, errno.EDQUOT)
"""Errors of this machine's disk."""

_TRIES = 4
_SILENT_S = 60.0
"""Seconds without a byte after which a connection counts as broken."""

_STAMPS = ("ETag", "etag", "LastModified", "updated", "md5Hash", "generation", "Content-MD5")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file behind an address.

    Attributes:
        path: As its file system has it.
        name: Relative to the address's folder, with slashes; the file's own for a file.
        size: Bytes; None where the server does not say.
    """

    path: str
    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What is behind an address now.

    Attributes:
        files: One, or those of a folder that a checkpoint needs.
        stamp: Another one where anything has changed, as far as the server tells.
    """

    files: tuple[RemoteFile, ...]
    stamp: str

    @property
    def size(self) -> int | None:
        """Bytes in all; None where the server does not say of each file."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def look(address: Address) -> Listing:
    """What is behind an address.

    Raises:
        MissingExtraError: A driver is not installed.
        ModelLoadError: There is nothing, it may not be read, or it cannot be reached.
    """
    with _told(address):
        system, path = _system(address)
        found = _retried(_infos, system, path, address)
    if not found:
        raise ModelLoadError(f"There are no weights behind {address.text}.")
    root = path.rstrip("/")
    files = tuple(
        RemoteFile(name, _relative(name, root) if address.folder else address.name, _size(info))
        for name, info in found.items()
    )
    stamp = {
        file.name: [file.size, *(str(found[file.path].get(key)) for key in _STAMPS)]
        for file in files
    }
    text = json.dumps(stamp, sort_keys=True)
    return Listing(files, hashlib.sha256(text.encode()).hexdigest())


def bring(address: Address, listing: Listing, folder: Path, progress: Progress) -> None:
    """Downloads all files of a listing into a folder that is there and empty.

    Raises:
        ModelLoadError: The connection broke, more than once; or less came than was announced.
    """
    before = 0

    def progress_from(start: int) -> Callable[[int], None]:
        return lambda done: progress(start + done, listing.size)

    with _told(address):
        system, _ = _system(address)
        for file in listing.files:
            before += _retried(_bring_file, system, file, folder / file.name, progress_from(before))
    progress(before, before)


def _bring_file(system: Any, file: RemoteFile, target: Path, tell: Callable[[int], None]) -> int:
    """Downloads one file; returns its bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    system.get_file(file.path, str(target), callback=_callback(tell))
    size = target.stat().st_size
    if file.size is not None and size != file.size:
        raise ConnectionError(f"{size} of {file.size} bytes came")
    return size


def _infos(system: Any, path: str, address: Address) -> dict[str, Mapping[str, Any]]:
    if not address.folder:
        info = system.info(path)
        final = str(info.get("url", ""))
        if address.scheme == "https" and final.startswith("http://"):
            raise ModelLoadError(f"{address.text} leads to http, which is not safe for weights.")
        if info.get("type") == "directory":
            raise ModelLoadError(f"{address.text} is a folder; end it with a slash.")
        return {path: info}
    every = {str(name): info for name, info in system.find(path, detail=True).items()}
    weights = preferred_weights(every)
    return {
        name: info
        for name, info in every.items()
        if name in weights or name.endswith(BESIDE_SUFFIXES)
    }


def _relative(name: str, root: str) -> str:
    relative = PurePosixPath(name.removeprefix(root).lstrip("/"))
    if relative.is_absolute() or ".." in relative.parts:
        raise ModelLoadError(f"The file {name} is not in its folder {root}.")
    return str(relative)


def _size(info: Mapping[str, Any]) -> int | None:
    size = info.get("size")
    return None if size is None else int(size)


def _system(address: Address) -> tuple[Any, str]:
    import fsspec

    missing = address.missing_driver
    if missing is not None:
        raise MissingExtraError(f"{address.text} needs a package that is not here. Run: {missing}")
    options: dict[str, Any] = {"use_listings_cache": False}
    if address.scheme in ("http", "https"):
        import aiohttp

        # Its own bound is five minutes for the whole file; what matters is that bytes come.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_S, sock_read=_SILENT_S)
        options["client_kwargs"] = {"timeout": timeout}
    system, path = fsspec.core.url_to_fs(address.text, **options)
    return system, str(path)


def _retried(work: Callable[..., Result], *given: Any) -> Result:
    """Tries again what may pass; a file that is not there does not come by asking."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5),
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    return retrying(work, *given)


def _true(error: BaseException) -> BaseException:
    """What was wrong: fsspec calls everything that goes wrong with a URL a file that is absent."""
    import aiohttp

    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    absent = isinstance(cause, aiohttp.ClientResponseError) and cause.status in (404, 410)
    return error if absent or isinstance(cause, FileNotFoundError) else cause


def _may_pass(error: BaseException) -> bool:
    import aiohttp

    error = _true(error)
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in (408, 429, 500, 502, 503, 504)
    passing = (ConnectionError, TimeoutError, aiohttp.ClientError)
    return isinstance(error, passing)


@contextmanager
def _told(address: Address) -> Iterator[None]:
    try:
        yield
    except (ModelLoadError, MemoryError):
        raise
    except FileNotFoundError as error:
        cause = _true(error)
        if cause is not error:
            raise _unreachable(address, cause) from error
        raise ModelLoadError(f"There is nothing behind {address.text}.") from error
    except PermissionError as error:
        raise ModelLoadError(
            f"{address.text} may not be read ({error}). Give the replicas the rights, as the "
            "driver of its scheme expects them (AWS_…, GOOGLE_…)."
        ) from error
    except OSError as error:
        if error.errno in _LOCAL:
            raise ModelLoadError(
                f"{address.text} cannot be kept here: {error.strerror}. Make room in the cache "
                "folder, or name another in SIMILARITY_CACHE_DIR."
            ) from error
        raise _unreachable(address, error) from error
    except Exception as error:  # drivers have errors of their own
        raise _unreachable(address, error) from error


def _unreachable(address: Address, error: BaseException) -> ModelLoadError:
    return ModelLoadError(
        f"{address.text} could not be downloaded ({type(error).__name__}: {str(error)[:300]}). "
        "Is the address right, and can this machine reach it?"
    )


def _callback(tell: Callable[[int], None]) -> Any:
    """Fsspec's callback, that tells the bytes which are here."""
    from fsspec.callbacks import Callback

    return Callback(hooks={"told": lambda size, value, **_: tell(int(value))})

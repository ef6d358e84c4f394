"""`serve-app models pull | verify | warm`: the weights of declared models, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from serve_app.models.factory import SimilarityModelFactory
    from serve_app.models.snapshot import ResolvedModel
    from serve_app.weights.cache import WeightsCache
    from serve_app.weights.remote import Progress

Row = dict[str, Any]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names of declared models; all, if none is given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|ADDRESS]...",
            help="Names of declared models, or addresses of weights; all models, if none is given.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download what models need and is not here.

    Prints the SHA-256 of each file of weights, as a spec's `sha256` has it. Exits with 1 if
    something could not be downloaded; the others are.
    """
    from serve_app.cli.downloads import downloads
    from serve_app.models.factory import SimilarityModelFactory
    from serve_app.weights.address import is_address

    given = names or []
    addresses = [name for name in given if is_address(name)]
    declared = [name for name in given if not is_address(name)]
    models = _chosen(declared) if declared or not addresses else ()
    cache, factory = _cache(), SimilarityModelFactory()
    with downloads() as progress_of:
        rows = [
            _row(text, _pull_address, text, None, cache, progress_of(text)) for text in addresses
        ]
        rows += [
            _row(model.name, pull_model, model, factory, cache, progress_of(model.name))
            for model in models
        ]
    _print(rows, ("name", "sha256", "bytes", "path"), as_json)


def verify(names: Names = None, as_json: AsJson = False) -> None:
    """Compare weights on this machine with the checksums of their specs.

    Reads every byte. Exits with 1 if one is another than its spec says.
    """
    cache = _cache()
    rows = [_row(model.name, _verified, model, cache) for model in _chosen(names or [])]
    _print(rows, ("name", "result", "sha256", "path"), as_json)


def warm(names: Names = None, as_json: AsJson = False) -> None:
    """Load models here, one after the other, and compute once.

    What loads here loads on a machine of the same kind. Exits with 1 if one does not load.
    """
    from serve_app.cli.downloads import downloads
    from serve_app.cli.local import quiet_libraries

    cache = _cache()
    with quiet_libraries(), downloads() as progress_of:
        rows = [
            _row(model.id, _warmed, model, cache, progress_of(model.name))
            for model in _chosen(names or [])
        ]
    columns = ("name", "device", "precision", "bytes", "load_seconds", "pair_ms")
    _print(rows, columns, as_json)


def pull_models(models: Iterable[ResolvedModel], factory: SimilarityModelFactory) -> None:
    """Downloads what models need and is not here, with a bar for each; raises `ModelLoadError`."""
    from serve_app.cli.downloads import downloads

    cache = _cache()
    with downloads() as progress_of:
        for model in models:
            pull_model(model, factory, cache, progress_of(model.name))


def pull_model(
    model: ResolvedModel, factory: SimilarityModelFactory, cache: WeightsCache, progress: Progress
) -> Row:
    """Downloads what one model needs; raises `ModelLoadError`."""
    from serve_app.weights.address import is_address

    spec = model.spec
    if is_address(spec.pretrained):
        return _pull_address(spec.pretrained or "", spec.sha256, cache, progress)
    factory.prefetch(spec)
    path, sha256 = _here(model, cache)
    size = None if path is None or not path.is_file() else path.stat().st_size
    return {"sha256": sha256, "bytes": size, "path": None if path is None else str(path)}


def _pull_address(text: str, sha256: str | None, cache: WeightsCache, progress: Progress) -> Row:
    from serve_app.errors import ModelLoadError
    from serve_app.weights.address import parse_address

    try:
        address = parse_address(text)
    except ValueError as error:
        raise ModelLoadError(f"{error}.") from None
    with cache.lease(address, sha256, progress) as found:
        return {"sha256": found.sha256, "bytes": found.bytes, "path": str(found.path)}


def _verified(model: ResolvedModel, cache: WeightsCache) -> Row:
    from serve_app.errors import ModelLoadError

    path, sha256 = _here(model, cache)
    expected = model.spec.sha256
    if path is None:
        return {"result": "not here", "sha256": None, "path": model.spec.pretrained}
    if expected is not None and sha256 != expected:
        raise ModelLoadError(f"`sha256` is {expected}, but that of {path} is {sha256 or 'none'}.")
    result = "ok" if expected is not None else "no checksum"
    return {"result": result, "sha256": sha256, "path": str(path)}


def _warmed(model: ResolvedModel, cache: WeightsCache, progress: Progress) -> Row:
    from serve_app.engine.loading import model_loader
    from serve_app.models.factory import SimilarityModelFactory
    from serve_app.weights.local import localised

    with localised(model.spec, cache, progress):  # here, as the loader shows no bar
        loaded = model_loader(SimilarityModelFactory(), cache)(model)
    info = loaded.info
    loaded.unload()
    return {
        "device": info.placement.device,
        "precision": info.placement.precision,
        "bytes": info.bytes,
        "load_seconds": round(info.load_seconds, 3),
        "pair_ms": round(info.expected_ms, 3),
    }


def _here(model: ResolvedModel, cache: WeightsCache) -> tuple[Path | None, str | None]:
    """The weights of a model on this machine, and their SHA-256; nothing for tags and ids."""
    from serve_app.config.checkpoints import is_path, weights_file
    from serve_app.weights.checksums import file_sha256
    from serve_app.weights.local import address_of

    address = address_of(model.spec)
    if address is not None:
        found = cache.find(address)
        return (None, None) if found is None else (found.path, found.sha256)
    place = model.spec.pretrained or model.spec.architecture
    if place is None or not (is_path(place) or Path(place).exists()):
        return None, None
    path = weights_file(place)
    return (None, None) if path is None else (path, file_sha256(path))


def _chosen(names: Sequence[str]) -> tuple[ResolvedModel, ...]:
    """The declared models with these names, all if there is none; raises `UnknownModelError`."""
    from serve_app.cli.local import snapshot_here
    from serve_app.config.declaration import read_declaration

    declared = read_declaration()
    snapshot = snapshot_here(declared.models, routing=declared.routing)
    if not names:
        return tuple(snapshot.models.values())
    return tuple(snapshot.resolve(name) for name in names)


def _cache() -> WeightsCache:
    from serve_app.config.declaration import cache_from_environment
    from serve_app.weights.cache import cache_of

    return cache_of(cache_from_environment())


def _row(name: str, work: Callable[..., Row], *given: Any) -> Row:
    """What became of one model; a failure is told, and the others go on."""
    from serve_app.errors import ServeAppError

    try:
        return {"name": name, **work(*given)}
    except ServeAppError as error:
        return {"name": name, "error": {"code": error.code, "detail": error.detail}}


def _print(rows: list[Row], columns: Sequence[str], as_json: bool) -> None:
    from serve_app.cli.failures import FAILED, report
    from serve_app.cli.output import print_json

    failed = [row for row in rows if "error" in row]
    if as_json:
        print_json({"data": rows})
    else:
        for row in rows:
            if "error" not in row:
                _print_block(row, columns)
        for row in failed:
            report(f"{row['name']}: {row['error']['detail']}")
    if failed:
        raise typer.Exit(FAILED)


def _print_block(row: Row, columns: Sequence[str]) -> None:
    """One fact a line: a checksum is there to be copied, and a table would fold it."""
    name, *others = columns
    typer.secho(row[name], bold=True)
    for column in others:
        typer.echo(f"  {column:<{max(map(len, others))}}  {_shown(row[column])}")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)

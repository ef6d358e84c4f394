"""`serve-app check-config`: every fault of a configuration file, before it is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.failures import MISUSED

if TYPE_CHECKING:
    from serve_app.config.args import AppArgs
    from serve_app.errors import Fault
    from serve_app.models.registry import RegistrySnapshot


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a file without faults says.

    Attributes:
        kind: `serve` or `models`.
        args: The application's arguments; None for a models document.
        snapshot: The models; None where the file declares none.
    """

    kind: str
    args: AppArgs | None
    snapshot: RegistrySnapshot | None


def check_config(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A Serve config file, or a document of models (name to spec)."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Check a configuration file, and name every fault in it.

    A file with `applications` is a Serve config: its keys and this application's arguments are
    checked, and the models of its `runtime_env`, if it declares any. Any other file is a document
    of models, as in SIMILARITY_MODELS_FILE. Nothing is loaded. Exits with 2 if there is a fault.
    """
    from serve_app.errors import ConfigError

    try:
        checked = _check(file)
    except ConfigError as error:
        _print_faults(file, error.faults, as_json=as_json)
        raise typer.Exit(MISUSED) from error
    _print_fine(file, checked, as_json=as_json)


def _check(file: Path) -> _Checked:
    from serve_app.cli.local import snapshot_here
    from serve_app.config.faults import Origin
    from serve_app.config.sources import FileSource
    from serve_app.config.text import parse_mapping, read_text

    origin = Origin(file.name, ":")
    if "applications" not in parse_mapping(read_text(file, origin.key()), origin).value:
        return _Checked("models", None, snapshot_here(FileSource(file).read()))
    from serve_app.config.serve_file import read_serve_config

    args, document = read_serve_config(file)
    return _Checked("serve", args, _models_of_serve_config(args, document))


def _models_of_serve_config(args: AppArgs, document: dict[str, Any]) -> RegistrySnapshot | None:
    """The models that the application's `runtime_env` declares; None where it declares none."""
    from serve_app.cli.local import has_gpu, snapshot_here
    from serve_app.config.serve_file import IMPORT_PATH
    from serve_app.config.sources import source_from_environment
    from serve_app.models.placement import pool_placement

    ours = next(app for app in document["applications"] if app.get("import_path") == IMPORT_PATH)
    runtime_env = ours.get("runtime_env")
    variables = runtime_env.get("env_vars") if isinstance(runtime_env, Mapping) else None
    if not isinstance(variables, Mapping):
        return None
    source = source_from_environment({str(name): str(value) for name, value in variables.items()})
    if source is None:
        return None
    has = has_gpu()
    pools = {pool.name: pool_placement(pool, has_gpu=has) for pool in args.pools}
    return snapshot_here(source.read(), pools)


def _print_faults(file: Path, faults: tuple[Fault, ...], *, as_json: bool) -> None:
    from rich.text import Text

    from serve_app.cli.output import print_json, stderr

    if as_json:
        listed = [{"key": fault.key, "message": fault.message} for fault in faults]
        print_json({"file": str(file), "valid": False, "faults": listed})
        return
    console = stderr()
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    console.print(Text(f"{file} has {count}:", style="bold red"))
    for fault in faults:
        line = Text("  ").append(fault.key, style="bold").append(f": {fault.message}")
        console.print(line, soft_wrap=True)


def _print_fine(file: Path, checked: _Checked, *, as_json: bool) -> None:
    from rich.text import Text

    from serve_app.cli.models import print_models
    from serve_app.cli.output import new_table, print_json, stdout
    from serve_app.serving.answers import model_answer

    snapshot = checked.snapshot
    models = (
        [model_answer(model, snapshot, None) for model in snapshot.models.values()]
        if snapshot
        else []
    )
    notices = snapshot.notices if snapshot else ()
    if as_json:
        print_json(
            {
                "file": str(file),
                "valid": True,
                "kind": checked.kind,
                "args": checked.args.model_dump(mode="json") if checked.args else None,
                "models": models,
                "notices": [{"key": item.key, "message": item.message} for item in notices],
            }
        )
        return
    console = stdout()
    what = "a Serve config" if checked.kind == "serve" else "a document of models"
    console.print(
        Text(str(file), style="bold").append(f" is {what} without faults.", style="green")
    )
    if checked.args is not None:
        table = new_table("pool", "replicas", "GPUs", "CPUs", "threads", "memory")
        for pool in checked.args.pools:
            memory = "-" if pool.memory_bytes is None else f"{pool.memory_bytes / 2**30:.1f} GiB"
            cells = (pool.gpus, pool.cpus, pool.threads)
            table.add_row(pool.name, _replicas(pool.replicas), *map(str, cells), memory)
        console.print(table)
    if models:
        print_models(models, console, served=False)
        console.print(Text("device and revision: as on this machine", style="dim"))
    elif checked.args is not None:
        console.print("It declares no models: the environment of the cluster does, else the demo.")
    for notice in notices:
        note = Text("note: ", style="yellow").append(f"{notice.key}: {notice.message}")
        console.print(note, soft_wrap=True)


def _replicas(replicas: Any) -> str:
    if isinstance(replicas, int):
        return str(replicas)
    return f"{replicas.min_replicas}-{replicas.max_replicas}"

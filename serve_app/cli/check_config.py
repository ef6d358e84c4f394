"""`serve-app check-config`: every fault of a configuration file, before it is deployed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.failures import MISUSED

if TYPE_CHECKING:
    from rich.console import Console

    from serve_app.config.args import AppArgs
    from serve_app.errors import Fault
    from serve_app.models.registry import RegistrySnapshot
    from serve_app.routing.table import RoutingTable


@dataclass(frozen=True, slots=True)
class _Checked:
    """What a file without faults says.

    Attributes:
        kind: `serve` or `models`.
        args: The application's arguments; None for a models document.
        snapshot: The models; None where the file declares none.
        routing: The routing; None where the file declares none. Without models, nothing is known
            of the names in it.
    """

    kind: str
    args: AppArgs | None
    snapshot: RegistrySnapshot | None
    routing: RoutingTable | None


def check_config(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A Serve config file, or a document of models (name to spec)."
        ),
    ],
    routing: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A document of routing, as in SIMILARITY_ROUTING_FILE, to check with the models.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of text.")
    ] = False,
) -> None:
    """Check a configuration file, and name every fault in it.

    A file with `applications` is a Serve config: its keys and this application's arguments are
    checked, and the models and the routing of its `runtime_env`, if it declares any. Any other
    file is a document of models, as in SIMILARITY_MODELS_FILE. Nothing is loaded. Exits with 2 if
    there is a fault.
    """
    from serve_app.errors import ConfigError

    try:
        checked = _check(file, routing)
    except ConfigError as error:
        _print_faults(file, error.faults, as_json=as_json)
        raise typer.Exit(MISUSED) from error
    _print_fine(file, checked, as_json=as_json)


def _check(file: Path, routing: Path | None) -> _Checked:
    from serve_app.config.faults import Origin
    from serve_app.config.text import parse_mapping, read_text

    origin = Origin(file.name, ":")
    if "applications" not in parse_mapping(read_text(file, origin.key()), origin).value:
        return _check_documents(file, routing)
    if routing is not None:
        raise typer.BadParameter("a Serve config names its routing itself, in its `runtime_env`")
    from serve_app.config.serve_file import read_serve_config

    return _check_serve_config(*read_serve_config(file))


def _check_documents(models: Path, routing: Path | None) -> _Checked:
    from serve_app.cli.local import snapshot_here
    from serve_app.config.declaration import read_declaration
    from serve_app.config.settings import MODELS_FILE, ROUTING_FILE

    variables = {MODELS_FILE: str(models)}
    if routing is not None:
        variables[ROUTING_FILE] = str(routing)
    declared = read_declaration(variables)
    snapshot = snapshot_here(declared.models, routing=declared.routing)
    return _Checked("models", None, snapshot, snapshot.routing)


def _check_serve_config(args: AppArgs, document: dict[str, Any]) -> _Checked:
    """What the application's `runtime_env` declares; the rest is the cluster's to say."""
    from serve_app.cli.local import has_gpu, snapshot_here
    from serve_app.config.declaration import declared_routing, read_declaration
    from serve_app.config.serve_file import IMPORT_PATH
    from serve_app.config.sources import source_from_environment
    from serve_app.models.placement import pool_placement
    from serve_app.routing.build import build_routing

    ours = next(app for app in document["applications"] if app.get("import_path") == IMPORT_PATH)
    runtime_env = ours.get("runtime_env")
    variables = runtime_env.get("env_vars") if isinstance(runtime_env, Mapping) else None
    environ = {str(name): str(value) for name, value in dict(variables or {}).items()}
    if source_from_environment(environ) is None:
        routing = declared_routing(environ)
        if routing is None:
            return _Checked("serve", args, None, None)
        names = _names_of_models(routing.raw)
        table = build_routing(routing, names, next(iter(names), ""))
        return _Checked("serve", args, None, table)
    has = has_gpu()
    pools = {pool.name: pool_placement(pool, has_gpu=has) for pool in args.pools}
    declared = read_declaration(environ)
    snapshot = snapshot_here(declared.models, pools, routing=declared.routing)
    return _Checked("serve", args, snapshot, snapshot.routing)


def _names_of_models(routing: Mapping[str, Any]) -> tuple[str, ...]:
    """What a document of routing takes for models: what it names and does not declare itself."""
    aliases = routing.get("aliases")
    experiments = routing.get("experiments")
    aliases = aliases if isinstance(aliases, Mapping) else {}
    experiments = experiments if isinstance(experiments, Mapping) else {}
    names = [routing.get("default"), *aliases.values()]
    for experiment in experiments.values():
        if isinstance(experiment, Mapping):
            for field in ("arms", "shadow"):
                listed = experiment.get(field)
                names += listed if isinstance(listed, (Mapping, list)) else ()
    declared = {*aliases, *experiments}
    return tuple(
        dict.fromkeys(name for name in names if isinstance(name, str) and name not in declared)
    )


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
    from serve_app.serving.inventory import model_answer

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
                "routing": _routing_json(checked.routing),
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
    if checked.routing is not None:
        _print_routing(checked.routing, console)
        if snapshot is None:
            console.print("Whether the models that routing names exist is not known here.")
    for notice in notices:
        note = Text("note: ", style="yellow").append(f"{notice.key}: {notice.message}")
        console.print(note, soft_wrap=True)


def _routing_json(table: RoutingTable | None) -> dict[str, Any] | None:
    return None if table is None else table.spec.model_dump(mode="json")


def _print_routing(table: RoutingTable, console: Console) -> None:
    from rich.text import Text

    from serve_app.cli.output import new_table

    console.print(Text(f"what names no model goes to: {table.default}"))
    for alias, target in table.spec.aliases.items():
        console.print(Text(f"alias {alias}: {target}"))
    if not table.spec.experiments:
        return
    listed = new_table("experiment", "arms", "sticky by", "shadow")
    for name, experiment in table.spec.experiments.items():
        arms = ", ".join(f"{arm} {weight:g} %" for arm, weight in experiment.arms.items())
        shadow = ", ".join(experiment.shadow) or "-"
        listed.add_row(*map(Text, (name, arms, experiment.sticky_by, shadow)))
    console.print(listed)


def _replicas(replicas: Any) -> str:
    if isinstance(replicas, int):
        return str(replicas)
    return f"{replicas.min_replicas}-{replicas.max_replicas}"

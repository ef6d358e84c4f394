"""`serve-app serve`: the service in the foreground until Ctrl-C."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

_STEPS = {
    "ray": "Starting Ray",
    "models": "Starting replicas and loading models",
    "probe": "Waiting for the first inference",
    "stopping": "Stopping",
}


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port for metrics, on all interfaces; else any that is free.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A Serve config file whose application's `args` are used."),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON when the service is ready.")
    ] = False,
) -> None:
    """Serve the models of the environment over HTTP, in the foreground until Ctrl-C.

    With no SIMILARITY_ variable set, the demo models in the package are served.
    """
    from rich.console import Console

    from serve_app.cli.local import has_gpu
    from serve_app.cli.weights import pull_models
    from serve_app.config.args import AppArgs
    from serve_app.config.declaration import configuration_from_environment, read_declaration
    from serve_app.config.exposure import check_exposure
    from serve_app.config.serve_file import read_serve_config
    from serve_app.launcher import LaunchOptions, launch
    from serve_app.models.factory import SimilarityModelFactory
    from serve_app.models.placement import pool_placement
    from serve_app.models.registry import DynamicModelRegistry

    console = Console(stderr=True)
    args = read_serve_config(config)[0] if config is not None else AppArgs()
    # Faults are told before anything starts, and a download shows its progress here rather than
    # in some replica's log.
    registry = DynamicModelRegistry(
        {pool.name: pool_placement(pool, has_gpu=has_gpu()) for pool in args.pools},
        factory := SimilarityModelFactory(),
    )
    configuration = configuration_from_environment()
    keyed = configuration.access.read().required
    check_exposure(host, configuration)
    declared = read_declaration()
    snapshot = registry.update(declared.models, declared.routing)
    pull_models(snapshot.preloaded(), factory)
    started = time.monotonic()
    options = LaunchOptions(host, port, args, metrics_port)
    with console.status("Starting Ray") as status:

        def report(step: str) -> None:
            if step == "ready":
                status.stop()
                seconds = time.monotonic() - started
                if json_output:
                    ready = {"url": options.url, "default": snapshot.default, "seconds": seconds}
                    sys.stdout.write(json.dumps(ready) + "\n")
                    sys.stdout.flush()
                else:
                    _print_ready(console, options.url, snapshot.default, seconds, keyed=keyed)
            elif step == "stopped":
                status.stop()
                console.print("Stopped.")
            else:
                status.update(f"{_STEPS[step]} …")
                status.start()

        launch(options, report)
    sys.stdout.flush()
    sys.stderr.flush()
    # All is taken down. Where Ctrl-C came while Ray was starting, its native threads may crash the
    # interpreter on its way out, and a clean stop would end with a segmentation fault.
    os._exit(0)


def _print_ready(console: Console, url: str, default: str, seconds: float, *, keyed: bool) -> None:
    console.print(f"[green]Ready[/green] after {seconds:.0f} s at [bold]{url}[/bold] ", end="")
    console.print(f"(default model: {default}; documentation: {url}/docs). Try:\n")
    # Plain, so that it can be copied whole.
    console.print(
        f"  curl -s {url}/v1/score \\\n"
        + ('    -H "Authorization: Bearer $KEY" \\\n' if keyed else "")
        + "    -F image=@examples/red-circle-left-of-blue-square.jpg \\\n"
        '    -F text="a red circle left of a blue square" \\\n'
        '    -F text="a blue circle left of a red square"\n',
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print("Ctrl-C stops it.")

"""`serve-app models`: which models are declared, here or on a running service.

Its sub-commands are in `weights`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_STATE_STYLES = {"active": "green", "failed": "bold red"}


def models(
    context: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the service at this address instead."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of a table.")
    ] = False,
) -> None:
    """List the declared models, or see to their weights on this machine.

    Without a command: those that the environment declares, with device and precision as this
    machine has them; nothing is loaded. With --url, those of a running service.
    """
    if context.invoked_subcommand is not None:
        return
    from serve_app.cli.output import print_json, stdout

    document = _served(url) if url is not None else _declared()
    if as_json:
        print_json(document)
        return
    print_models(document["data"], stdout(), served=url is not None)


def _served(url: str) -> dict[str, Any]:
    from serve_app.client.http import HttpTransport

    transport = HttpTransport(url)
    try:
        return transport.models()
    finally:
        transport.close()


def _declared() -> dict[str, Any]:
    from serve_app.cli.local import snapshot_here
    from serve_app.config.declaration import read_declaration
    from serve_app.serving.inventory import models_answer

    declared = read_declaration()
    snapshot = snapshot_here(declared.models, routing=declared.routing)
    return models_answer(snapshot, lambda _: None)


def print_models(models: list[dict[str, Any]], console: Console, *, served: bool) -> None:
    """Prints a table of `ModelAnswer`s; whether they are loaded only a running service can tell."""
    from rich.text import Text

    from serve_app.cli.output import new_table, shortened

    headers = ["model", "architecture", "pretrained", "pool", "device"]
    table = new_table(*headers, *(["state", "loaded"] if served else []))
    for model in models:
        cells = [
            Text(model["id"], style="green" if model["default"] else ""),
            Text(shortened(model["architecture"])),
            Text(shortened(model["pretrained"])),
            Text(model["pool"]),
            Text(f"{model['device']} {model['precision']}"),
        ]
        if served:
            state = model.get("state") or ""
            cells.append(Text(state, style=_STATE_STYLES.get(state, "yellow")))
            cells.append(Text("yes", style="green") if model["loaded"] else Text("no"))
        table.add_row(*cells)
    console.print(table)
    for model in models:
        if served and model.get("reason"):
            console.print(Text(f"{model['id']}: {model['reason']}", style="red"), soft_wrap=True)
    for model in models:
        if model["default"]:
            console.print(Text(f"default: {model['name']}", style="dim"))

"""The command line: `serve-app`. One module per command; each loads what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from serve_app import __version__
from serve_app.bench.command import bench_command
from serve_app.cli import admin, weights
from serve_app.cli.check_config import check_config
from serve_app.cli.failures import ReportingGroup
from serve_app.cli.keys import new_key
from serve_app.cli.models import models
from serve_app.cli.parity import record_parity
from serve_app.cli.plan import plan
from serve_app.cli.score import score
from serve_app.cli.serve import serve

app = typer.Typer(
    name="serve-app",
    cls=ReportingGroup,
    no_args_is_help=True,
    # What is expected is told in one line (see `failures`); a bug should show its plain traceback.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"serve-app {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """How well does this image match this text?

    The models come from the environment (SIMILARITY_MODELS and its kin); with none of these
    variables set, the demo models in the package answer.
    """


app.command()(serve)
app.command()(score)
declared = typer.Typer(cls=ReportingGroup, invoke_without_command=True)
declared.callback()(models)
declared.command()(weights.pull)
declared.command()(weights.verify)
declared.command()(weights.warm)
app.add_typer(declared, name="models")
app.command()(check_config)
app.command()(record_parity)
app.command()(new_key)
app.command()(plan)
for operation in (
    admin.promote,
    admin.rollback,
    admin.pin,
    admin.unpin,
    admin.weights,
    admin.clear,
    admin.status,
    admin.audit,
):
    app.command(rich_help_panel="Operate a running service")(operation)
app.command("bench")(bench_command)


def main() -> None:
    """Runs the command line; exits with 0, 1 (an item or the service failed), 2 (usage) or
    3 (an operation is not in effect yet).
    """
    app()

"""How a command ends when something expected went wrong: one line on stderr and an exit code."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from serve_app.errors import ConfigError, RequestError, ServeAppError

FAILED = 1
"""Exit code: an item, the model or the service failed."""

MISUSED = 2
"""Exit code: usage or configuration; also what the option parser exits with."""


class ReportingGroup(TyperGroup):
    """Reports errors that are no bugs without a traceback, whichever command raised them."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was named."""
        try:
            return super().invoke(ctx)
        except ServeAppError as error:
            report(_told(error))
            code = MISUSED if isinstance(error, (ConfigError, RequestError)) else FAILED
            raise typer.Exit(code) from error
        except BrokenPipeError:
            # `serve-app ... | head` is not a failure; stdout must not be flushed again at exit.
            sys.stdout = None
            raise typer.Exit(FAILED) from None
        except OSError as error:
            report(describe(error))
            raise typer.Exit(MISUSED) from error


def report(message: str) -> None:
    """Prints an error."""
    typer.secho("Error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
    typer.secho(message, fg=typer.colors.RED, err=True)


def _told(error: ServeAppError) -> str:
    """One fault needs no list around it."""
    if isinstance(error, ConfigError) and len(error.faults) == 1:
        return str(error.faults[0])
    return error.detail


def describe(error: OSError) -> str:
    """An error of the operating system without its number."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason

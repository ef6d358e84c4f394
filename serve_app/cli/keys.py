"""`serve-app new-key`: makes an API key."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

import typer


def new_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for example `team-a`.")],
    role: Annotated[
        Literal["score", "admin"], typer.Option(help="What it may: score, or operate as well.")
    ] = "score",
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Most requests in any minute.")
    ] = None,
    max_in_progress: Annotated[
        int | None, typer.Option(min=1, help="Most requests at a time.")
    ] = None,
) -> None:
    """Make an API key: the key for its bearer, and its line for SIMILARITY_API_KEYS.

    The line goes to standard output and holds the hash alone; the key is shown once, on standard
    error.
    """
    from serve_app.config.access import key_digest, parse_keys
    from serve_app.config.faults import Origin

    key = f"sk-{secrets.token_urlsafe(32)}"
    fields = [f"sha256: {key_digest(key)}"]
    if role != "score":
        fields.append(f"role: {role}")
    if requests_per_minute is not None:
        fields.append(f"requests_per_minute: {requests_per_minute}")
    if max_in_progress is not None:
        fields.append(f"max_in_progress: {max_in_progress}")
    line = f"{name}: {{{', '.join(fields)}}}"
    parse_keys(line, Origin("NAME"), operable=True)
    typer.echo(f"The key of {name}, shown only now: {key}", err=True)
    typer.echo(line)

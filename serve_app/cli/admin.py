"""`serve-app promote | rollback | pin | unpin | weights | clear | status | audit`."""

from __future__ import annotations

import getpass
import math
import os
import socket
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from serve_app.client.admin import AdminClient

PENDING = 3
"""Exit code: it is not in effect yet, and goes on."""

_URL = "http://127.0.0.1:8000"

Url = Annotated[str, typer.Option(metavar="URL", help="Address of the service.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it goes into the audit trail.")]
Who = Annotated[str | None, typer.Option(metavar="NAME", help="Who asks for it; else user@host.")]
Keep = Annotated[
    bool, typer.Option("--keep", help="Let it outlast a change of the declared configuration.")
]
Timeout = Annotated[
    float, typer.Option(min=1, max=3600, help="Seconds to wait until it is in effect.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the JSON answer.")]


def promote(
    target: Annotated[str, typer.Argument(help="Name of a model, alias or experiment.")],
    *,
    reason: Reason,
    who: Who = None,
    keep: Keep = False,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Make a model, alias or experiment the default of a running service."""
    _operate(
        "promote", _Way(url, timeout, as_json), who=who, reason=reason, keep=keep, target=target
    )


def rollback(
    number: Annotated[
        int | None,
        typer.Argument(min=1, help="The configuration snapshot; else the one before."),
    ] = None,
    *,
    reason: Reason,
    who: Who = None,
    keep: Keep = False,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Go back to an earlier configuration: its models, routing and weights.

    Returns when every ingress replica of the service answers with it. `serve-app status` lists the
    numbers.
    """
    _operate(
        "rollback", _Way(url, timeout, as_json), who=who, reason=reason, keep=keep, number=number
    )


def pin(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    *,
    reason: Reason,
    who: Who = None,
    keep: Keep = False,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Keep a model loaded on every replica of its pool."""
    _operate("pin", _Way(url, timeout, as_json), who=who, reason=reason, keep=keep, name=name)


def unpin(
    name: Annotated[str, typer.Argument(help="Name of a model.")],
    *,
    reason: Reason,
    who: Who = None,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """End a pin."""
    _operate("unpin", _Way(url, timeout, as_json), who=who, reason=reason, name=name)


def weights(
    experiment: Annotated[str, typer.Argument(help="Name of the experiment.")],
    arms: Annotated[
        list[str],
        typer.Argument(
            metavar="ARM=PERCENT...", help="They sum to 100; what is left out gets nothing."
        ),
    ],
    *,
    reason: Reason,
    who: Who = None,
    keep: Keep = False,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """Split an experiment in another way."""
    shares = _shares(arms)
    _operate(
        "weights",
        _Way(url, timeout, as_json),
        who=who,
        reason=reason,
        keep=keep,
        experiment=experiment,
        arms=shares,
    )


def clear(
    *,
    reason: Reason,
    who: Who = None,
    url: Url = _URL,
    timeout: Timeout = 300.0,
    as_json: AsJson = False,
) -> None:
    """End all overrides: what is declared is in force again."""
    _operate("clear", _Way(url, timeout, as_json), who=who, reason=reason)


def status(*, url: Url = _URL, as_json: AsJson = False) -> None:
    """Show what is in effect, what is wanted, and what keeps it from being so."""
    from serve_app.cli.admin_tables import print_status
    from serve_app.cli.output import print_json, stdout

    with _client(url) as client:
        told = client.status()
    if as_json:
        print_json(told)
    else:
        print_status(told, stdout())


def audit(
    *,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Entries to show.")] = 20,
    url: Url = _URL,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, when and why."""
    from serve_app.cli.admin_tables import print_audit
    from serve_app.cli.output import print_json, stdout

    with _client(url) as client:
        entries = client.audit(limit)
    if as_json:
        print_json({"object": "list", "data": entries})
    else:
        print_audit(entries, stdout())


class _Way(NamedTuple):
    """Where to ask, how long to wait, and how to tell."""

    url: str
    timeout: float
    as_json: bool


def _operate(kind: str, way: _Way, *, who: str | None, reason: str, **body: Any) -> None:
    from serve_app.cli.admin_tables import print_operation
    from serve_app.cli.output import print_json, stdout

    with _client(way.url) as client:
        answer = client.operate(
            kind, timeout_s=way.timeout, who=who or _myself(), reason=reason, **body
        )
    if way.as_json:
        print_json(answer)
    else:
        print_operation(answer, stdout())
    if answer["outcome"] == "pending":
        raise typer.Exit(PENDING)


def _client(url: str) -> AdminClient:
    from serve_app.client.admin import AdminClient
    from serve_app.config.settings import ADMIN_TOKEN, read_environment
    from serve_app.errors import ConfigError, Fault

    # The environment alone: a command line can be read by everybody on the machine.
    token = read_environment().admin_token
    if not token:
        message = "is not set; give it the value that the service was started with"
        raise ConfigError((Fault(ADMIN_TOKEN, message),))
    return AdminClient(url, token)


def _myself() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _shares(arms: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in arms:
        arm, equals, percent = text.partition("=")
        try:
            share = float(percent)
        except ValueError:
            share = math.nan
        if not arm or not equals or math.isnan(share):
            raise typer.BadParameter(f"{text!r} is not of the form ARM=PERCENT")
        if arm in shares:
            raise typer.BadParameter(f"{arm!r} is given twice")
        shares[arm] = share
    return shares

"""How the answers of the admin routes look in a terminal; asks for nothing."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"active": "green", "failed": "bold red", "loading": "yellow", "ready": "yellow"}
_LAST_SNAPSHOTS = 10


def print_operation(answer: dict[str, Any], console: Console) -> None:
    """Prints an `OperationAnswer`."""
    from rich.text import Text

    confirmed, silent = answer["confirmed"], [*answer["missing"], *answer["lost"]]
    if answer["outcome"] == "pending":
        console.print(Text("Not in effect yet; it goes on.", style="bold yellow"))
        if answer["detail"]:
            console.print(Text(f"Waiting: {answer['detail']}"), soft_wrap=True)
        return
    line = Text("In effect", style="bold green")
    line.append(f": snapshot {answer['snapshot']}, served by {_count(confirmed, 'ingress')}.")
    console.print(line, soft_wrap=True)
    if silent:
        text = f"Not confirmed by {', '.join(silent)}; see `serve-app status`."
        console.print(Text(text, style="yellow"), soft_wrap=True)


def print_status(told: dict[str, Any], console: Console) -> None:
    """Prints a `StatusReport`."""
    from rich.text import Text

    _print_summary(told, console)
    _print_revisions(told, console)
    for fault in told["faults"]:
        text = Text("refused: ", style="bold red").append(f"{fault['key']}: {fault['message']}")
        console.print(text, soft_wrap=True)
    for name, why in told["waiting"].items():
        text = Text(f"{name} waits: ", style="yellow").append(why)
        console.print(text, soft_wrap=True)
    _print_members(told, console)


def print_audit(entries: list[dict[str, Any]], console: Console) -> None:
    """Prints the entries of an audit trail."""
    from rich.text import Text

    from serve_app.cli.output import new_table

    table = new_table("when", "who", "what", "why", "result")
    for entry in entries:
        cells = (entry["who"], entry["what"], entry["why"], entry["detail"])
        table.add_row(_when(entry["at"]), *map(Text, cells))
    console.print(table)


def _print_summary(told: dict[str, Any], console: Console) -> None:
    from rich.text import Text

    if told["complete"]:
        line = Text(f"Snapshot {told['snapshot']} is in effect, all as wanted.", style="bold green")
    else:
        line = Text(
            f"Snapshot {told['snapshot']} is in effect, {told['target']} is wanted.",
            style="bold yellow",
        )
    console.print(line)
    if len(told["snapshots"]) > 1:
        last = ", ".join(map(str, told["snapshots"][-_LAST_SNAPSHOTS:]))
        console.print(Text(f"Roll back to any of the snapshots: {last}", style="dim"))
    overrides = told["overrides"]
    if overrides is None:
        return
    changes = []
    if overrides["snapshot"] is not None:
        changes.append(f"rolled back to {overrides['snapshot']}")
    if overrides["default"] is not None:
        changes.append(f"default {overrides['default']}")
    for experiment, arms in overrides["weights"].items():
        shares = ", ".join(f"{arm} {share:g}" for arm, share in arms.items())
        changes.append(f"{experiment}: {shares}")
    if overrides["pinned"]:
        changes.append(f"pinned {', '.join(overrides['pinned'])}")
    until = "kept" if overrides["keep"] else "until the declared configuration changes"
    line = Text("Overridden: ", style="bold magenta").append("; ".join(changes))
    line.append(f" ({overrides['who']}: {overrides['reason']}; {until})")
    console.print(line, soft_wrap=True)


def _print_revisions(told: dict[str, Any], console: Console) -> None:
    from rich.text import Text

    from serve_app.cli.output import new_table

    table = new_table("revision", "state", "since", "remarks")
    hidden = 0
    for revision in told["revisions"]:
        state = revision["state"]
        if state == "unloaded":
            hidden += 1
            continue
        remarks = [text for text in (revision["reason"], revision["note"]) if text]
        if revision["id"] in told["retry_in_s"]:
            remarks.append(f"tried again in {told['retry_in_s'][revision['id']]:.0f} s")
        table.add_row(
            Text(revision["id"]),
            Text(state, style=_STYLES.get(state, "")),
            _when(revision["since"]),
            Text("; ".join(remarks)),
        )
    console.print(table)
    if hidden:
        console.print(Text(f"and {hidden} earlier revisions that are unloaded", style="dim"))


def _print_members(told: dict[str, Any], console: Console) -> None:
    from rich.text import Text

    from serve_app.cli.output import new_table

    table = new_table("member", "heard of", "serves", "holds")
    for member in told["members"]:
        held = [key for key, model in member["models"].items() if model["state"] == "ready"]
        table.add_row(
            Text(member["id"]),
            f"{member['seen_s']:.1f} s ago",
            Text("this", style="green") if member["current"] else Text("older", style="yellow"),
            Text(", ".join(held) if member["kind"] == "pool" else ""),
        )
    console.print(table)


def _count(items: list[str], name: str) -> str:
    return f"{len(items)} {name}" + ("" if len(items) == 1 else "es")


def _when(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    moment = datetime.datetime.fromtimestamp(seconds).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")

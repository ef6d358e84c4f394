"""Sends the application's log where Serve's own goes: file and standard error of the replica."""

from __future__ import annotations

import logging


def log_to_serve(level: str) -> None:
    """Gives the loggers of this package Serve's handlers and a level.

    Serve's `LoggingConfig` sets its own logger alone; without this, what the application logs in
    a replica would be lost.
    """
    ours = logging.getLogger("serve_app")
    ours.setLevel(level)
    ours.handlers = list(logging.getLogger("ray.serve").handlers)
    ours.propagate = False

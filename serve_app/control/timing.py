"""How long the control plane waits for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the control plane waits for what, in seconds.

    Attributes:
        poll_s: Between two looks at what is declared.
        tick_s: Between two looks at what passes without a message: back-off, deaths. Real time.
        expires_s: A member that was not heard of for so long counts as dead.
        confirm_s: How long an operation that is in effect waits for the ingresses to say so.
        retire_after_s: How long a drained revision may still be addressed, and stays loaded where
            there is room: a rollback to it is immediate.
        adopt_s: How long after its start a plane without stored state adopts what members serve.
    """

    poll_s: float = 2.0
    tick_s: float = 0.25
    expires_s: float = 5.0
    confirm_s: float = 10.0
    retire_after_s: float = 600.0
    adopt_s: float = 60.0

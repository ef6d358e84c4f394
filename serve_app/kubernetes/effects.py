"""What may happen when manifests are applied, from nothing to a new cluster."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from serve_app.kubernetes.manifests import Key


class Effect(IntEnum):
    """How much happens; greater is more."""

    NOTHING = 0
    LIVE_RELOAD = 1
    IN_PLACE = 2
    ROLLING_RESTART = 3
    NEW_CLUSTER = 4

    @property
    def label(self) -> str:
        """As people write it: `live-reload`."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one object.

    Attributes:
        key: The object.
        effect: How much.
        detail: What, and why.
        gpus: That are needed in all while it happens; 0 where that is no more than before.
        warning: Why it is not what somebody may expect: above all, that nothing happens.
    """

    key: Key
    effect: Effect
    detail: str
    gpus: float = 0
    warning: str = ""

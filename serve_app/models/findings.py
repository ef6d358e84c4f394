"""What a light check of a spec found."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing to say about a spec.

    Attributes:
        field: Dotted field of the spec.
        message: What is wrong, and what to do.
        fault: False for a notice: worth knowing, but no reason to refuse the spec.
    """

    field: str
    message: str
    fault: bool = True

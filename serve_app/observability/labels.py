"""Bounds what a label can be: every new value is a series that nothing ever forgets."""

from __future__ import annotations

OTHER = "other"
"""Stands for all values beyond the bound."""


class BoundedLabel:
    """The values of one label in one process.

    Args:
        most: Distinct values that are told apart; those that come later are `other`.
    """

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        """The value, or `other`."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value

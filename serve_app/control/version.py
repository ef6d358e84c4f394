"""Versions of what is served."""

Version = tuple[str, int]
"""Incarnation of the control plane, and a counter; followers compare for equality alone."""

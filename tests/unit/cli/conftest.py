"""The client's tests have the same need of a running service."""

from tests.unit.client.conftest import service_url

__all__ = ["service_url"]

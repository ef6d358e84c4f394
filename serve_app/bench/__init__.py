"""Measures speed, latency, memory and start-up; a client of the service, never a part of it."""

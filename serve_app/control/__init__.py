"""Desired state, rollout and operations; knows neither Ray, HTTP nor torch."""

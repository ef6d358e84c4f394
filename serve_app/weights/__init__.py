"""Weights before they are a model: where they are, whether they are the right ones, and a cache."""

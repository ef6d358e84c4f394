"""From what a model gives to named scores."""

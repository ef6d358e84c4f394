"""What a person configures: read, checked and typed here; nothing below knows a model or Ray."""

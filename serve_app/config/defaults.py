"""The models that serve when nothing is configured."""

from __future__ import annotations

from pathlib import Path

from serve_app.config.document import Document
from serve_app.config.faults import Origin

DEMO_NAMES = ("demo", "demo-lite")
"""The demo models; their weights are part of the package."""

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "demo" / "weights"
"""Where the demo models' files are."""


def default_document() -> Document:
    """The demo models, loaded by the same backend as any other checkpoint."""
    models = {
        name: {
            "backend": "open_clip",
            "architecture": str(WEIGHTS_FOLDER / f"{name}.json"),
            "pretrained": str(WEIGHTS_FOLDER / f"{name}.safetensors"),
            "preload": True,
        }
        for name in DEMO_NAMES
    }
    return Document(models, Origin("demo defaults", ": "))

"""Writes the OpenAPI document, which is committed: `python -m serve_app.serving.openapi FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serve_app.config.args import Limits
from serve_app.serving.admin import add_admin
from serve_app.serving.api import create_api, openapi_document
from serve_app.serving.load import Load


def document() -> str:
    """The document as JSON, in a stable order."""
    nobody: Any = None  # the routes are described here, not called
    api = create_api(nobody, Limits(), Load(1, 1))
    add_admin(api, nobody)
    return json.dumps(openapi_document(api), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")

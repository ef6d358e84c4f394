"""What integration tests share: a running application, and a drawing of one's own."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import httpx
from PIL import Image, ImageDraw

from serve_app.models.registry import RegistrySnapshot

TRUE = "a red circle left of a blue square"
SWAPPED = "a blue circle left of a red square"
UNRELATED = "a green star"


@dataclass(frozen=True)
class Running:
    """A deployed application: its name, its address, and a client for it."""

    name: str
    url: str
    http: httpx.Client
    snapshot: RegistrySnapshot


Deploy = Callable[..., Running]


def drawing(kind: str = "PNG", size: tuple[int, int] = (800, 600)) -> bytes:
    """A red circle left of a blue square, as any drawing program makes it."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    width, height = size
    side = min(size) // 4
    top = height // 2 - side // 2
    draw.ellipse((width // 5, top, width // 5 + side, top + side), fill="red")
    draw.rectangle((3 * width // 5, top, 3 * width // 5 + side, top + side), fill="blue")
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()

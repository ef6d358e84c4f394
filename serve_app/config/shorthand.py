"""`SIMILARITY_MODEL`: one word that declares the only model.

- `ARCHITECTURE/TAG`, a pair of open_clip: `ViT-B-32/laion2b_s34b_b79k`.
- A folder with `open_clip_config.json` and one file of weights.
- A checkpoint file, with its architecture beside it: `NAME.json` or `open_clip_config.json`.

What exists as a folder or file is one; everything else is a pair. The model is named after the
architecture (or folder, or file): lower case, other characters as `-`, so `vit-b-32`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import CONFIG_NAME, WEIGHT_SUFFIXES, find_weights
from serve_app.config.document import Document
from serve_app.config.faults import Origin
from serve_app.config.settings import MODEL
from serve_app.errors import ConfigError, Fault

_LONGEST_NAME = 63


def model_name(text: str) -> str:
    """A valid model name from any text; `main` where nothing is left."""
    words = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")
    return words[:_LONGEST_NAME].rstrip("-._") or "main"


def shorthand_document(text: str) -> Document:
    """The document that a `SIMILARITY_MODEL` stands for.

    Raises:
        ConfigError: It is none of the three forms, or files are missing.
    """
    text = text.strip()
    path = Path(text).expanduser()
    if not text:
        raise _refused("is empty; " + _FORMS)
    if path.is_dir():
        name, spec = _folder(path.absolute())
    elif path.is_file():
        name, spec = _file(path.absolute())
    elif text.startswith(("/", ".", "~")) or text.lower().endswith(WEIGHT_SUFFIXES):
        raise _refused(f"there is no file or folder {text}; {_FORMS}")
    else:
        # open_clip's older names have a slash of their own: ViT-B/32
        architecture, _, tag = text.rpartition("/")
        if not architecture or not tag:
            raise _refused(f"{text!r} is not understood; {_FORMS}")
        name, spec = architecture, {"architecture": architecture, "pretrained": tag}
    slug = model_name(name)
    models = {slug: {"backend": "open_clip", **spec, "preload": True}}
    return Document(models, Origin(MODEL), {(slug,): MODEL})


_FORMS = (
    "give ARCHITECTURE/TAG of open_clip (ViT-B-32/laion2b_s34b_b79k), a folder with "
    f"{CONFIG_NAME} and weights, or a checkpoint file"
)


def _folder(folder: Path) -> tuple[str, dict[str, Any]]:
    config = folder / CONFIG_NAME
    if not config.is_file():
        raise _refused(f"the folder {folder} has no {CONFIG_NAME}, which names the architecture")
    weights = find_weights(folder)
    if weights is None:
        kinds = ", ".join(WEIGHT_SUFFIXES)
        raise _refused(
            f"the folder {folder} has no weights, or several files that could be ({kinds}); "
            "name the file itself"
        )
    return folder.name, {"architecture": str(config), "pretrained": str(weights)}


def _file(path: Path) -> tuple[str, dict[str, Any]]:
    if not path.name.lower().endswith(WEIGHT_SUFFIXES):
        raise _refused(f"{path} does not end like a checkpoint ({', '.join(WEIGHT_SUFFIXES)})")
    for config in (path.with_suffix(".json"), path.parent / CONFIG_NAME):
        if config.is_file():
            return path.stem, {"architecture": str(config), "pretrained": str(path)}
    raise _refused(
        f"beside {path} there is neither {path.stem}.json nor {CONFIG_NAME}, which would name the "
        "architecture; declare the model in SIMILARITY_MODELS instead"
    )


def _refused(message: str) -> ConfigError:
    return ConfigError((Fault(MODEL, message),))

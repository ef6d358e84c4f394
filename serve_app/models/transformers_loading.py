"""A checkpoint of the transformers library: where it is, its parts, and errors in words.

Knows no family and computes nothing. Code that a checkpoint brings along is never run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from serve_app.config.checkpoints import weights_file
from serve_app.config.spec import ModelSpec
from serve_app.errors import MissingExtraError, ModelLoadError
from serve_app.models.transformers_checkpoint import INSTALL, local_folder
from serve_app.weights.checksums import verify_sha256

try:
    import transformers
except ImportError as error:
    raise MissingExtraError(
        f"This backend needs the package transformers ({error}). Run: {INSTALL}"
    ) from error

__all__ = ["Checkpoint", "transformers"]


class Checkpoint:
    """What a spec's `pretrained` names: a folder that `save_pretrained` wrote, or an id of the hub.

    Args:
        spec: The declared configuration.
        fitting: Where tokenizer and image processor come from, where the checkpoint has none.

    Raises:
        ModelLoadError: It names nothing.
    """

    def __init__(self, spec: ModelSpec, fitting: str | None = None) -> None:
        if spec.pretrained is None:
            raise ModelLoadError("`pretrained` is missing: a folder, or an id of the hub.")
        self.name = spec.pretrained
        self._spec = spec
        self._folder = local_folder(spec.pretrained)
        self._fitting = fitting

    def verified(self) -> str:
        """SHA-256 of the weights file; empty where there is not just one, or it is not here.

        Raises:
            ModelLoadError: It is not the one that the spec names.
        """
        folder = self._folder
        path = weights_file(str(folder)) if folder is not None and folder.is_dir() else None
        if path is None:
            if self._spec.sha256 is not None:
                raise ModelLoadError(
                    f"`sha256` is for one local file of weights, and {self.name} is not that."
                )
            return ""
        return verify_sha256(path, self._spec.sha256)

    def config(self) -> Any:
        """The model's configuration."""
        return transformers.AutoConfig.from_pretrained(**self._source())

    def model(self, kind: Any) -> Any:
        """The model in the checkpoint's own precision.

        Args:
            kind: A class of the library, or one of its `Auto` classes.

        Raises:
            ModelLoadError: The checkpoint has no weights for parts of it.
        """
        model, found = kind.from_pretrained(
            **self._source(), dtype="auto", output_loading_info=True
        )
        missing = sorted(found["missing_keys"])
        if missing:
            some = ", ".join(missing[:3])
            raise ModelLoadError(
                f"The checkpoint has no weights for {len(missing)} parts of "
                f"{type(model).__name__} ({some}, …): it is of another architecture, or damaged."
            )
        return model

    def tokenizer(self) -> Any:
        """The tokenizer."""
        return transformers.AutoTokenizer.from_pretrained(**self._fitting_source())

    def image_processor(self) -> Any:
        """The image processor, on Pillow; see `transformers_images`."""
        return transformers.AutoImageProcessor.from_pretrained(
            **self._fitting_source(), backend="pil"
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Errors of the library in words that say what to do."""
        try:
            yield
        except ModelLoadError:
            raise
        except ImportError as error:
            raise MissingExtraError(
                f"{self.name} needs a package that is not installed ({error}). Run: {INSTALL}"
            ) from error
        except OSError as error:  # the hub's errors, gated repositories among them, are these
            first = str(error).strip().splitlines()[0]
            raise ModelLoadError(
                f"{self.name} cannot be loaded ({first}). Is the folder complete? For an id of the "
                "hub: connect to the network, accept the model's terms and set HF_TOKEN where it "
                "is gated, or bring the cache folder of a machine that has it and point HF_HOME "
                "to it."
            ) from error

    def _source(self) -> dict[str, Any]:
        """Where the model is read from."""
        return _source(self.name, self._spec.options.get("revision"))

    def _fitting_source(self) -> dict[str, Any]:
        """Where tokenizer and image processor are read from."""
        has_own = self._folder is not None and (self._folder / _PROCESSOR).is_file()
        return self._source() if self._fitting is None or has_own else _source(self._fitting)


_PROCESSOR = "preprocessor_config.json"


def _source(name: str, revision: str | None = None) -> dict[str, Any]:
    folder = local_folder(name)
    return {
        "pretrained_model_name_or_path": str(folder or name),
        "revision": revision or "main",
        "local_files_only": folder is not None,
        "trust_remote_code": False,
    }

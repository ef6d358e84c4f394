"""Weights files, to tensors by name; knows no architecture and no library of models.

Nothing in a weights file is executed unless a spec says so: pickles are read with `weights_only`,
and a TorchScript archive, which is a program, is refused.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from serve_app.errors import ModelLoadError

StateDict = dict[str, torch.Tensor]
"""Tensors by name."""


@contextmanager
def open_state_dict(path: Path, *, run_torchscript: bool = False) -> Iterator[StateDict]:
    """Opens a weights file; its tensors are valid inside the block only, and may be file-backed.

    Args:
        path: A safetensors file, or what `torch.save` wrote.
        run_torchscript: Whether a TorchScript archive may run its code, which loading it does.

    Raises:
        ModelLoadError: The file is not what its name says, cut short, or not tensors alone.
    """
    state: StateDict = {}
    try:
        state.update(_unwrap(_read(path, run_torchscript)))
        if not state:
            raise ModelLoadError(f"{path} holds no tensors.")
        yield state
    finally:
        state.clear()


def check_fit(own: Mapping[str, torch.Tensor], state: StateDict, what: str) -> None:
    """Compares names and shapes of a model's tensors with those of its weights.

    Args:
        own: The model's.
        state: The weights'.
        what: The model, for the message.

    Raises:
        ModelLoadError: They differ; the message says how.
    """
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = [
        f"{label}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''} ({len(names)} in all)"
        for label, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    if faults:
        raise ModelLoadError(
            f"The weights are for another architecture than {what}. {'; '.join(faults)}. "
            "Name the architecture that they were trained with."
        )


def assign_cast(
    model: torch.nn.Module,
    state: StateDict,
    device: torch.device,
    dtype: torch.dtype,
    kept: Collection[str],
    *,
    copy: bool = True,
) -> None:
    """Puts every tensor, cast and on the device, into the model; all or nothing.

    Args:
        model: Without values, or with others.
        state: All that it has, see `check_fit`; is emptied, so that no tensor is there twice.
        device: Where to.
        dtype: Of what is floating.
        kept: Names of what stays in fp32.
        copy: Also where nothing is cast or moved: a file-backed tensor would change, or crash,
            with its file.
    """
    ready: StateDict = {}
    for name in model.state_dict():
        tensor = state.pop(name)
        target = tensor.dtype
        if tensor.is_floating_point():
            target = torch.float32 if name in kept else dtype
        ready[name] = tensor.detach().to(device=device, dtype=target, copy=copy)
        del tensor
    model.load_state_dict(ready, strict=True, assign=True)


def _read(path: Path, run_torchscript: bool) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        mappable = zipfile.is_zipfile(path)
        if mappable and _is_torchscript(path):
            if run_torchscript:
                return _torchscript_state(path)
            raise ModelLoadError(
                f"{path} is a TorchScript archive, which is a program and is not run here. Save "
                "its state dict instead: torch.save(torch.jit.load(path).state_dict(), new_path). "
                "The backend torch_clip runs it where `options.allow_torchscript` is true."
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable or None)
    except ModelLoadError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a bad file
        kind = "safetensors" if path.suffix == ".safetensors" else "torch checkpoint"
        raise ModelLoadError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a {kind}: it is cut short, "
            f"damaged, of another format, or holds more than tensors ({first_line(error)}). "
            "Copy or download it again, or save its state dict as safetensors."
        ) from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.split("/", 1)[-1] == "constants.pkl" for name in names)


def _torchscript_state(path: Path) -> StateDict:
    with warnings.catch_warnings():
        # That TorchScript is deprecated is no news to who serves a checkpoint of 2021.
        warnings.simplefilter("ignore")
        program: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    return dict(program.state_dict())


def _unwrap(content: Any) -> StateDict:
    """Takes the state dict out of a training checkpoint, without the wrapper's prefix."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ModelLoadError("The weights file holds no mapping of names to tensors.")
    state = {str(name): value for name, value in content.items()}
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelLoadError(
            "The weights file holds other things than tensors, and no `state_dict` among them."
        )
    if state and all(name.startswith("module.") for name in state):  # DistributedDataParallel's
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def first_line(error: BaseException) -> str:
    """Type and first line of an error, for a message that goes on."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"

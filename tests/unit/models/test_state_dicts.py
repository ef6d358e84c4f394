import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from serve_app.errors import ModelLoadError
from serve_app.models.state_dicts import open_state_dict

TENSORS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.6)}


def read(path: Path) -> dict[str, torch.Tensor]:
    with open_state_dict(path) as state:
        return {name: tensor.clone() for name, tensor in state.items()}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("legacy", [False, True])
def test_all_forms_of_files_are_read(tmp_path: Path, suffix: str, legacy: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=not legacy)
    state = read(path)
    assert set(state) == set(TENSORS)
    assert torch.equal(state["visual.proj"], TENSORS["visual.proj"])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_training_checkpoints_are_unwrapped(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "epoch_3.pt"
    state = {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 1e-3}}, path)
    assert set(read(path)) == set(TENSORS)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("new.pt", lambda path: torch.save({"a": Malicious()}, path)),
        ("old.pt", lambda path: path.write_bytes(pickle.dumps(Malicious()))),
    ):
        path = tmp_path / name
        write(path)
        with pytest.raises(ModelLoadError, match="more than tensors"):
            read(path)
    assert not (tmp_path / "executed").exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    # Made by hand: torch.jit.script itself warns that it is deprecated.
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", b"\x80\x02}.")
    with pytest.raises(ModelLoadError, match="TorchScript"):
        read(path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 7, 40, -5])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match=r"weights.*cut short"):
        read(path)


@pytest.mark.parametrize("content", [{"a": 3}, [torch.zeros(1)], {}, {"state_dict": {}}])
def test_files_without_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ModelLoadError, match="tensors"):
        read(path)

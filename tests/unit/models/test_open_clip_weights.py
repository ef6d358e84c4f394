import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError
from serve_app.models.fingerprint import verify_sha256
from serve_app.models.open_clip_architecture import Architecture, resolve_architecture
from serve_app.models.open_clip_weights import (
    Weights,
    locate_weights,
    open_state_dict,
)

TENSORS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.6)}
BUILTIN = resolve_architecture("ViT-B-32")


def locate(architecture: Architecture = BUILTIN, **fields: Any) -> Weights:
    return locate_weights(ModelSpec(**fields), architecture)


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


def test_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert verify_sha256(path, digest) == verify_sha256(path, None) == digest
    with pytest.raises(ModelLoadError) as caught:
        verify_sha256(path, "0" * 64)
    assert digest in str(caught.value)
    assert "0" * 64 in str(caught.value)


def test_random_weights_must_be_allowed() -> None:
    with pytest.raises(ModelLoadError, match="allow_random_weights"):
        locate(pretrained="random")
    weights = locate(pretrained="random", allow_random_weights=True, seed=5)
    assert weights.path is None
    assert "5" in weights.source


def test_local_file_and_folder(tmp_path: Path) -> None:
    one = tmp_path / "epoch_1.pt"
    one.touch()
    assert locate(pretrained=str(one)).path == one
    assert locate(pretrained=str(tmp_path)).path == one
    (tmp_path / "epoch_2.pt").touch()
    with pytest.raises(ModelLoadError, match=r"epoch_1\.pt, epoch_2\.pt"):
        locate(pretrained=str(tmp_path))
    best = tmp_path / "open_clip_model.safetensors"
    best.touch()
    assert locate(pretrained=str(tmp_path)).path == best


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="laion2b_s34b_b79k"):  # a tag that there is
        locate(pretrained="laion9b")
    with pytest.raises(ModelLoadError, match="openai"):
        locate()
    with pytest.raises(ModelLoadError, match="none"):
        locate(pretrained=str(tmp_path))


def test_tag_without_network_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"network.*HF_HOME.*HF_HUB_OFFLINE.*path") as caught:
        locate(pretrained="laion2b_s34b_b79k")
    assert caught.value.__cause__ is not None

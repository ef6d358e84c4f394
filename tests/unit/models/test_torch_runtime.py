import numpy as np
import pytest
import torch

from serve_app.errors import DeviceUnavailableError, ModelFailedError
from serve_app.models.base import Placement
from serve_app.models.torch_runtime import (
    DTYPES,
    computing,
    is_out_of_memory,
    lay_out_for_cpu,
    memory_bytes,
    parameter_count,
    resolve_device,
    run_chunked,
)


def rows(batch: list[int]) -> torch.Tensor:
    return torch.tensor(batch)[:, None]


def test_cpu_is_always_there() -> None:
    assert resolve_device(Placement("cpu", "bf16", 1)) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("precision", DTYPES)
def test_cuda_without_a_gpu_is_unavailable(precision: str) -> None:
    with pytest.raises(DeviceUnavailableError, match="device: cpu"):
        resolve_device(Placement("cuda", precision, 1))


def test_unknown_device_and_precision_are_refused() -> None:
    with pytest.raises(DeviceUnavailableError, match="tpu"):
        resolve_device(Placement("tpu", "fp32", 1))
    with pytest.raises(DeviceUnavailableError, match="int8"):
        resolve_device(Placement("cpu", "int8", 1))


def test_computing_sets_threads_and_inference_mode() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with computing(Placement("cpu", "fp32", 1)):
            assert torch.get_num_threads() == 1
            assert torch.is_inference_mode_enabled()
        assert not torch.is_inference_mode_enabled()
    finally:
        torch.set_num_threads(before)


def test_shared_weights_count_once() -> None:
    module = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False) for _ in range(2)])
    module[1].weight = module[0].weight
    assert parameter_count(module) == 16
    assert memory_bytes(module) == 64
    assert memory_bytes(module.to(torch.bfloat16)) == 32


@pytest.mark.parametrize("max_batch", [1, 2, 3, 7, 100])
def test_chunks_keep_order(max_batch: int) -> None:
    calls: list[int] = []

    def compute(batch: list[int]) -> torch.Tensor:
        calls.append(len(batch))
        return rows(batch)

    results = torch.cat(run_chunked(compute, list(range(7)), max_batch))
    np.testing.assert_array_equal(results[:, 0], np.arange(7))
    assert max(calls) <= max_batch
    assert sum(calls) == 7


def test_batch_is_halved_until_it_fits_into_memory() -> None:
    calls: list[int] = []

    def compute(batch: list[int]) -> torch.Tensor:
        calls.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows(batch)

    results = torch.cat(run_chunked(compute, list(range(9)), 8))
    np.testing.assert_array_equal(results[:, 0], np.arange(9))
    assert calls == [8, 4, 2, 2, 2, 2, 1]


def test_one_item_that_does_not_fit_is_named() -> None:
    def compute(batch: list[int]) -> torch.Tensor:
        raise MemoryError

    with pytest.raises(ModelFailedError, match="even one item"):
        run_chunked(compute, [1, 2, 3], 2)


def test_other_errors_pass() -> None:
    def compute(batch: list[int]) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run_chunked(compute, [1], 2)


def test_real_allocation_failure_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_layout_keeps_values_and_memory() -> None:
    module = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    rows = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.inference_mode():
        expected = module(rows)
    size = memory_bytes(module)
    with torch.no_grad():
        lay_out_for_cpu(module)
    assert module.linear1.weight.stride() == (1, 32)
    assert module.self_attn.in_proj_weight.stride() == (1, 48)
    assert memory_bytes(module) == size
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])
    with torch.inference_mode():
        torch.testing.assert_close(module(rows), expected)

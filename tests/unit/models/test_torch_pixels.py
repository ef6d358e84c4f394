from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import Compose, Normalize, ToTensor

from serve_app.errors import ModelFailedError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.torch_pixels import PatchNormaliser, PixelNormaliser

CPU = torch.device("cpu")
SQUARE = ImagePreprocess((8, 8))
PATCHED = ImagePreprocess((16, 16), resize_mode="patches", patch_size=4, max_patches=40)


def image(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_normalised_as_torchvision_does() -> None:
    pixels = image(8, 8)
    transform = Compose([ToTensor(), Normalize(SQUARE.mean, SQUARE.std)])
    found = PixelNormaliser(SQUARE, CPU, torch.float32).batch([pixels])
    assert torch.equal(found[0], transform(pixels))


def test_patches_are_padded_in_steps_and_masked() -> None:
    normaliser = PatchNormaliser(PATCHED, CPU, torch.float32)
    wide, small = image(8, 16), image(4, 4, 1)
    normaliser.check([wide, small])
    found = normaliser.patches([wide, small])
    assert found.values.shape == (2, 32, 4 * 4 * 3)
    assert found.shapes.tolist() == [[2, 4], [1, 1]]
    assert found.mask.sum(dim=1).tolist() == [8, 1]
    assert not found.values[0, 8:].any()
    whole = normaliser.normalised(wide)
    # The sixth patch is the second of the second row.
    assert torch.equal(found.values[0, 5].view(4, 4, 3), whole[4:8, 4:8])
    # Steps do not go past what the model takes.
    assert normaliser.patches([image(40, 16)]).values.shape[1] == 40


@pytest.mark.parametrize(
    "wrong",
    [image(8, 9), image(9, 8), image(44, 16), image(0, 8), image(8, 8)[..., :2], image(8, 8)[0]],
)
def test_what_is_no_whole_patches_is_refused(wrong: Any) -> None:
    with pytest.raises(ModelFailedError, match="up to 40 patches"):
        PatchNormaliser(PATCHED, CPU, torch.float32).check([image(8, 8), wrong])

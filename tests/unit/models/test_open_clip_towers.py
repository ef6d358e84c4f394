"""The shorter ways through the towers give open_clip's own features."""

from copy import deepcopy
from typing import Any

import open_clip
import pytest
import torch

from serve_app.models.open_clip_blocks import Packing, plain_blocks
from serve_app.models.open_clip_towers import image_tower, text_tower
from tests.tiny_open_clip import CLIP_CONFIG, SIGLIP_CONFIG, built_in_tokenizer, make_model

CPU = torch.device("cpu")
TEXTS = [
    "a dog",
    "",
    "two green triangles above a yellow star and a small dog on the beach in the rain",
    "a red circle left of a blue square",
]
IDS = built_in_tokenizer(16)(TEXTS)
EXACT = {"atol": 2e-6, "rtol": 2e-5}


def config_with(**changes: dict[str, Any]) -> dict[str, Any]:
    config = deepcopy(CLIP_CONFIG)
    for key, value in changes.items():
        if isinstance(value, dict):
            config[key].update(value)
        else:
            config[key] = value
    return config


TEXT_CASES = {
    "clip": config_with(),
    "quick_gelu": config_with(quick_gelu=True),
    "custom_text": config_with(custom_text=True),
    "eos": config_with(custom_text=True, text_cfg={"pool_type": "eos", "eos_id": 49407}),
    "eos_never_found": config_with(text_cfg={"pool_type": "eos", "eos_id": 5}),
    "layer_scale": config_with(text_cfg={"ls_init_value": 0.3}),
    "custom_block": config_with(text_cfg={"qk_norm": True, "scale_fc": True}),
    "no_projection": config_with(embed_dim=32, custom_text=True, text_cfg={"proj_type": "none"}),
    "projection_with_bias": config_with(custom_text=True, text_cfg={"proj_bias": True}),
    "one_layer": config_with(text_cfg={"layers": 1}),
    # Those below may not be cut.
    "class_token": config_with(custom_text=True, text_cfg={"embed_cls": True}),
    "last": config_with(custom_text=True, text_cfg={"pool_type": "last"}),
    "bidirectional": config_with(custom_text=True, text_cfg={"no_causal_mask": True}),
}
CUTTABLE = list(TEXT_CASES)[:-3]


@pytest.mark.parametrize("case", TEXT_CASES)
@torch.inference_mode()
def test_text_features_equal_open_clip(case: str) -> None:
    model = make_model(TEXT_CASES[case])
    expected = model.encode_text(IDS, normalize=False)
    tower = text_tower(model, CPU)
    torch.testing.assert_close(tower(IDS), expected, **EXACT)
    for row in range(len(TEXTS)):
        torch.testing.assert_close(tower(IDS[row : row + 1]), expected[row : row + 1], **EXACT)
    # Without an end-of-text, all are read at their first token, which is the same.
    assert expected.std(dim=0).max() > 1e-3 or case == "eos_never_found"


@pytest.mark.parametrize("case", TEXT_CASES)
@torch.inference_mode()
def test_padding_is_computed_only_where_it_matters(case: str) -> None:
    model = make_model(TEXT_CASES[case])
    tower = getattr(model, "text", model)
    seen: list[int] = []
    tower.transformer.resblocks[0].ln_1.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    text_tower(model, CPU)(IDS)
    full = len(TEXTS) * (17 if case == "class_token" else 16)
    assert (seen[0] < full) == (case in CUTTABLE) or case == "custom_block"


@torch.inference_mode()
def test_custom_blocks_are_cut_after_the_longest_text() -> None:
    model = make_model(TEXT_CASES["custom_block"])
    assert plain_blocks(model.transformer) is None
    lengths: list[int] = []
    model.transformer.register_forward_hook(
        lambda module, inputs, output: lengths.append(inputs[0].shape[1])
    )
    text_tower(model, CPU)(IDS[:2])
    assert lengths == [4]


IMAGE_CASES = {
    "clip": config_with(),
    "no_ln_pre": config_with(vision_cfg={"no_ln_pre": True, "ls_init_value": 0.3}),
    "ln_after_pool": config_with(vision_cfg={"final_ln_after_pool": True}),
    "average": config_with(vision_cfg={"pool_type": "avg"}),
    "attentional": config_with(
        vision_cfg={"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}
    ),
    "custom_block": config_with(vision_cfg={"scale_attn": True}),
    "siglip": SIGLIP_CONFIG,
}


@pytest.mark.parametrize("case", IMAGE_CASES)
@torch.inference_mode()
def test_image_features_equal_open_clip(case: str) -> None:
    model = make_model(IMAGE_CASES[case])
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = model.encode_image(pixels, normalize=False)
    torch.testing.assert_close(image_tower(model)(pixels), expected, **EXACT)
    torch.testing.assert_close(image_tower(model)(pixels[1:2]), expected[1:2], **EXACT)
    assert expected.std(dim=0).max() > 1e-3


@pytest.mark.parametrize(("case", "shorter"), [("clip", True), ("average", False)])
@torch.inference_mode()
def test_last_block_computes_one_token_where_one_is_read(case: str, shorter: bool) -> None:
    model = make_model(IMAGE_CASES[case])
    rows: list[int] = []
    for block in model.visual.transformer.resblocks:
        block.mlp.register_forward_hook(
            lambda module, inputs, output: rows.append(inputs[0].numel() // inputs[0].shape[-1])
        )
    image_tower(model)(torch.randn(3, 3, 32, 32))
    assert rows == [3 * 17, 3 if shorter else 3 * 17]


@torch.inference_mode()
def test_coca_is_not_cut() -> None:
    coca = {
        **deepcopy(CLIP_CONFIG),
        "multimodal_cfg": {"context_length": 15, "width": 32, "heads": 2, "layers": 1},
    }
    coca["text_cfg"].update(context_length=15, embed_cls=True, output_tokens=True)
    coca["vision_cfg"].update(attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    torch.manual_seed(0)
    model = open_clip.CoCa(**coca).eval()
    ids = built_in_tokenizer(15)(TEXTS)
    torch.testing.assert_close(
        text_tower(model, CPU)(ids), model.encode_text(ids, normalize=False), rtol=0, atol=0
    )
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        image_tower(model)(pixels), model.encode_image(pixels, normalize=False), rtol=0, atol=0
    )


def test_packing_pads_and_packs() -> None:
    packing = Packing(torch.tensor([2, 1, 3]), CPU)
    rows = torch.arange(1.0, 7.0)[:, None]
    padded = packing.pad(rows)
    assert padded[..., 0].tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert torch.equal(packing.pack(padded), rows)
    assert packing.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert packing.last.tolist() == [1, 2, 5]

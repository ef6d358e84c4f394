"""ImageReward: a BLIP that gives one number for a pair, trained on what people prefer.

The published checkpoint has BLIP's own names, which are put into those of transformers; its sizes
are read off its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from serve_app.config.checkpoints import weights_file
from serve_app.errors import ModelLoadError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Capabilities
from serve_app.models.preference_spec import base_of, published_file
from serve_app.models.state_dicts import StateDict, check_fit, open_state_dict
from serve_app.models.torch_pairs import LoadedPairs, TorchPairScorer
from serve_app.models.torch_pixels import PixelNormaliser
from serve_app.models.torch_runtime import DTYPES, memory_bytes, parameter_count, resolve_device
from serve_app.models.transformers_loading import Checkpoint, transformers
from serve_app.models.transformers_text import TransformersTokens
from serve_app.weights.checksums import verify_sha256

CONTEXT = 35
"""Tokens of a prompt that it was trained with, of the 512 that the text part could read."""

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the training set; the published score is the output less the mean,
divided by the deviation."""

_HEAD_WIDTH = 64
_UNUSED = ("blip.vision_proj.", "blip.text_proj.")
"""Parts of BLIP's training that the reward has no use for."""

_NAMES = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm1\.", r"vision.encoder.layers.\1.layer_norm1."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm2\.", r"vision.encoder.layers.\1.layer_norm2."),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
)
"""From the checkpoint's names to those of `_Reward`, the first that fits."""


class ImageRewardModel(TorchPairScorer):
    """ImageReward (Xu et al. 2023): `reward` is the published score, about -2.5 to 2.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def _load(self) -> LoadedPairs:
        spec, placement = self.spec, self.placement
        device, dtype = resolve_device(placement), DTYPES[placement.precision]
        path = self._weights()
        sha256 = verify_sha256(path, spec.sha256)
        with open_state_dict(path) as state:
            model = _build(state, str(path))
        model.to(device=device, dtype=dtype).eval().requires_grad_(False)
        model.head.float()  # as published: the features are made fp32 before it
        checkpoint = Checkpoint(spec.model_copy(update={"pretrained": base_of(spec)}))
        with checkpoint.told():
            tokenizer = checkpoint.tokenizer()
        if len(tokenizer) > model.text.config.vocab_size:
            raise ModelLoadError(
                f"The tokenizer {base_of(spec)} has {len(tokenizer)} tokens, and the weights take "
                f"{model.text.config.vocab_size}; name theirs in `options.base`."
            )
        size = int(model.vision.config.image_size)
        own = ImagePreprocess((size, size))
        preprocess = own.merge(spec.preprocessing)
        if preprocess.size != own.size:
            raise ModelLoadError(
                f"`preprocessing.size` {preprocess.size} is not what the checkpoint takes "
                f"({own.size})."
            )
        tokens = TransformersTokens(tokenizer, CONTEXT, device)
        pixels = PixelNormaliser(preprocess, device, dtype)

        def score(images: torch.Tensor, rows: Sequence[Any]) -> Mapping[str, torch.Tensor]:
            batch = tokens.batch(rows)
            return {"reward": model.reward(images, batch["input_ids"], batch["attention_mask"])}

        return LoadedPairs(
            model=model,
            check_images=pixels.check,
            images=lambda images: model.vision(pixels.batch(images)).last_hidden_state,
            texts=tokens,
            score=score,
            capabilities=Capabilities(
                metrics=("reward",),
                default_metrics=("reward",),
                primary=spec.primary or "reward",
                embeds=False,
                max_batch=self.max_batch,
                context_length=CONTEXT,
            ),
            preprocess=preprocess,
            parameters=parameter_count(model),
            bytes=memory_bytes(model),
            details={
                "source": str(spec.pretrained or path.name),
                "weights_sha256": sha256,
                "tokenizer": base_of(spec),
                "image_size": f"{size}x{size}",
                "context_length": str(CONTEXT),
            },
        )

    def _weights(self) -> Path:
        pretrained = self.spec.pretrained
        if pretrained is None:
            return published_file(self.spec)
        path = weights_file(pretrained)
        if path is None:
            raise ModelLoadError(
                f"`pretrained` {pretrained!r} is no file, and no folder with one checkpoint."
            )
        return path


class _Reward(nn.Module):
    """Image part, text part with cross-attention, and a head of five linear layers."""

    def __init__(self, vision: Any, text: Any, widths: Sequence[int]) -> None:
        super().__init__()
        self.vision = transformers.BlipVisionModel(vision)
        self.text = transformers.BlipTextModel(text, add_pooling_layer=False)
        # In the places where the checkpoint has them; between them there is dropout in training.
        places = (0, 2, 4, 6, 7)
        self.head = nn.ModuleDict(
            {
                str(place): nn.Linear(before, after)
                for place, before, after in zip(places, widths, widths[1:], strict=False)
            }
        )

    def reward(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards (n,), fp32, of hidden states of images and token ids."""
        seen = torch.ones(images.shape[:-1], dtype=torch.long, device=images.device)
        states = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=images,
            encoder_attention_mask=seen,
        ).last_hidden_state
        values: torch.Tensor = states[:, 0].float()
        for layer in self.head.values():
            values = layer(values)
        return (values[:, 0] - MEAN) / STD


def _build(state: StateDict, what: str) -> _Reward:
    """The model with its weights; all of them or none."""
    renamed = _renamed(state)
    try:
        vision, text = _vision_config(renamed), _text_config(renamed)
        heads = [renamed[f"head.{place}.weight"] for place in (0, 2, 4, 6, 7)]
    except KeyError as error:
        raise ModelLoadError(
            f"{what} is no ImageReward: it has no tensor that becomes {error}."
        ) from error
    widths = [heads[0].shape[1], *(weight.shape[0] for weight in heads)]
    model = _Reward(vision, text, widths)
    own = model.state_dict()
    check_fit(own, renamed, f"the ImageReward that its own tensors tell of ({what})")
    # Copied: a file-backed tensor would change, or crash, with its file.
    model.load_state_dict(renamed, strict=True)
    return model


def _renamed(state: StateDict) -> StateDict:
    unused = [name for name in state if name.startswith(_UNUSED) or name.endswith("position_ids")]
    return {_name(name): tensor for name, tensor in state.items() if name not in unused}


def _name(published: str) -> str:
    for pattern, other in _NAMES:
        name, count = re.subn(pattern, other, published)
        if count:
            return name
    return published


def _vision_config(state: StateDict) -> Any:
    _, positions, width = state["vision.embeddings.position_embedding"].shape
    patch = state["vision.embeddings.patch_embedding.weight"].shape[-1]
    return transformers.BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["vision.encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=_layers(state, "vision.encoder.layers"),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=patch * round((positions - 1) ** 0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,  # BLIP's own; the library's default is another
    )


def _text_config(state: StateDict) -> Any:
    vocabulary, width = state["text.embeddings.word_embeddings.weight"].shape
    keys = state["text.encoder.layer.0.crossattention.self.key.weight"]
    return transformers.BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=keys.shape[1],
        intermediate_size=state["text.encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=_layers(state, "text.encoder.layer"),
        num_attention_heads=width // _HEAD_WIDTH,
        max_position_embeddings=state["text.embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12,
        pad_token_id=0,
    )


def _layers(state: StateDict, prefix: str) -> int:
    depth = prefix.count(".") + 1
    return len({name.split(".")[depth] for name in state if name.startswith(f"{prefix}.")})

"""The `itm` backend: image-text matching heads of BLIP and BLIP-2, as pair scorers.

The head looks at image and text at once, by cross-attention, so it tells "a dog bites a man" from
"a man bites a dog" better than two embeddings can (Li et al. 2022, section 3; Li et al. 2023,
section 3.2); there is nothing to embed, and every pair costs a pass of the text part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own idiom

from serve_app.errors import ModelLoadError
from serve_app.models.base import Capabilities
from serve_app.models.itm_spec import DEFAULT_METRICS, metrics_of
from serve_app.models.torch_pairs import LoadedPairs, TorchPairScorer
from serve_app.models.torch_pixels import PixelNormaliser
from serve_app.models.torch_runtime import DTYPES, memory_bytes, parameter_count, resolve_device
from serve_app.models.transformers_images import image_preprocess
from serve_app.models.transformers_loading import Checkpoint, transformers
from serve_app.models.transformers_text import TransformersTokens, context_length


class ItmModel(TorchPairScorer):
    """A BLIP or BLIP-2 with an image-text matching head.

    `pretrained` is a folder that `save_pretrained` wrote, or an id of the hub. The metric `itm` is
    the head's probability that image and text match; with `options.itc: true`, `itc` is the cosine
    of the contrastive heads besides, which costs one more pass of each text.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def _load(self) -> LoadedPairs:
        spec, placement = self.spec, self.placement
        device, dtype = resolve_device(placement), DTYPES[placement.precision]
        checkpoint = Checkpoint(spec)
        sha256 = checkpoint.verified()
        with checkpoint.told():
            head = _head(checkpoint)
            head.model.to(device=device, dtype=dtype).eval().requires_grad_(False)
            tokenizer, processor = checkpoint.tokenizer(), checkpoint.image_processor()
        own = image_preprocess(processor)
        preprocess = own.merge(spec.preprocessing)
        if preprocess.size != own.size:
            raise ModelLoadError(
                f"`preprocessing.size` {preprocess.size} is not what the checkpoint takes "
                f"({own.size})."
            )
        context = context_length(head.text_config, tokenizer)
        tokens = TransformersTokens(tokenizer, context, device)
        pixels = PixelNormaliser(preprocess, device, dtype)
        metrics = metrics_of(spec)
        primary = spec.primary or DEFAULT_METRICS[0]
        if primary not in metrics:
            raise ModelLoadError(
                f"`primary: {primary}` is not a metric of this model; it has {', '.join(metrics)}."
            )

        def score(images: torch.Tensor, rows: Sequence[Any]) -> Mapping[str, torch.Tensor]:
            batch = tokens.batch(rows)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            logits = head.match(images, ids, mask).float()
            found = {"itm": logits.softmax(dim=-1)[:, 1]}
            if "itc" in metrics:
                found["itc"] = head.cosine(images, ids, mask)
            return found

        return LoadedPairs(
            model=head.model,
            check_images=pixels.check,
            images=lambda images: head.images(pixels.batch(images)),
            texts=tokens,
            score=score,
            capabilities=Capabilities(
                metrics=metrics,
                default_metrics=metrics,
                primary=primary,
                embeds=False,
                max_batch=self.max_batch,
                context_length=context,
            ),
            preprocess=preprocess,
            parameters=parameter_count(head.model),
            bytes=memory_bytes(head.model),
            details={
                "source": str(spec.pretrained),
                "weights_sha256": sha256,
                "model_type": str(head.model.config.model_type),
                "class": type(head.model).__name__,
                "image_size": "x".join(map(str, preprocess.size)),
                "context_length": str(context),
            },
        )


class _Blip:
    """BLIP's parts, in the order of its own `forward`; texts are read at their first token."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.text_config = model.config.text_config

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, patches + 1, width)."""
        states: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return states

    def match(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2) of no match and match."""
        seen = torch.ones(images.shape[:-1], dtype=torch.long, device=images.device)
        states = self.model.text_encoder(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=images,
            encoder_attention_mask=seen,
        ).last_hidden_state
        logits: torch.Tensor = self.model.itm_head(states[:, 0])
        return logits

    def cosine(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Cosines (n,) of the projected first states."""
        states = self.model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        left = F.normalize(self.model.vision_proj(images[:, 0]).float(), dim=-1)
        right = F.normalize(self.model.text_proj(states[:, 0]).float(), dim=-1)
        return (left * right).sum(dim=-1)


class _Blip2:
    """BLIP-2's parts: query tokens that look at the image, with the text beside them or alone."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.text_config = model.config.qformer_config

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, patches + 1, width)."""
        states: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return states

    def match(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2) of no match and match: the mean over the query tokens."""
        queries = self.model.query_tokens.expand(len(images), -1, -1)
        count = queries.shape[1]
        before = torch.ones(queries.shape[:-1], dtype=mask.dtype, device=mask.device)
        states = self._look(
            images,
            query_embeds=self.model.embeddings(input_ids=ids, query_embeds=queries),
            query_length=count,
            attention_mask=torch.cat([before, mask], dim=1),
        )
        logits: torch.Tensor = self.model.itm_head(states[:, :count]).mean(dim=1)
        return logits

    def cosine(self, images: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Cosines (n,) of the text with the query token that is nearest to it."""
        queries = self.model.query_tokens.expand(len(images), -1, -1)
        seen = self._look(images, query_embeds=queries)
        states = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=ids),
            query_length=0,
            attention_mask=mask,
        ).last_hidden_state
        left = F.normalize(self.model.vision_projection(seen).float(), dim=-1)
        right = F.normalize(self.model.text_projection(states[:, 0]).float(), dim=-1)
        return torch.einsum("nqd,nd->nq", left, right).amax(dim=1)

    def _look(self, images: torch.Tensor, **given: Any) -> torch.Tensor:
        mask = torch.ones(images.shape[:-1], dtype=torch.long, device=images.device)
        states: torch.Tensor = self.model.qformer(
            encoder_hidden_states=images, encoder_attention_mask=mask, **given
        ).last_hidden_state
        return states


def _head(checkpoint: Checkpoint) -> _Blip | _Blip2:
    kind = checkpoint.config().model_type
    if kind == "blip":
        return _Blip(checkpoint.model(transformers.BlipForImageTextRetrieval))
    if kind == "blip-2":
        return _Blip2(checkpoint.model(transformers.Blip2ForImageTextRetrieval))
    raise ModelLoadError(
        f"{checkpoint.name} is a {kind}, and this backend has heads of blip and blip-2; the "
        "backend transformers loads dual encoders."
    )

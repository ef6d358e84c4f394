"""The in-process limit: what the machine does when nothing is served.

Plain open_clip, torch and Pillow; nothing of the engine, so that a fault there cannot hide here.
Run by hand: `python -m serve_app.bench.limit --threads 2 --all`.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import open_clip
import torch
from PIL import Image

from serve_app.bench.child import emit, wait_for_start
from serve_app.bench.figures import latency
from serve_app.bench.machine import best_precision
from serve_app.bench.workload import BenchRequest, Workload

_REQUESTS = 128
_WARM_UP_BATCHES = 3


@dataclass(frozen=True, slots=True)
class _Limit:
    """The model in process, and the work of one batch of requests."""

    model: Any
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    device: torch.device
    dtype: torch.dtype

    def scores(self, requests: Sequence[BenchRequest]) -> torch.Tensor:
        """Cosines, float32, shape (requests, texts of each)."""
        images = torch.stack([self.preprocess(_decode(request.image)) for request in requests])
        tokens = self.tokenizer([text for request in requests for text in request.texts])
        image = self.model.encode_image(images.to(self.device, self.dtype), normalize=True)
        text = self._encode_text(tokens.to(self.device)).view(len(requests), -1, image.shape[-1])
        return torch.einsum("rd,rtd->rt", image.float(), text.float()).cpu()

    def _encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """As open_clip's CLIP does it, less the padding behind the longest text of the batch.

        The tower is causal and pooled at end-of-text, so what is behind cannot matter.
        """
        model = self.model
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        hidden = model.token_embedding(tokens[:, :length]).to(self.dtype)
        hidden = hidden + model.positional_embedding[:length].to(self.dtype)
        hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
        hidden = model.ln_final(hidden)
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        features: torch.Tensor = torch.nn.functional.normalize(
            pooled @ model.text_projection, dim=-1
        )
        return features


def measure(
    architecture: str,
    precision: str,
    threads: int,
    batch: int,
    seconds: float,
    *,
    requests: int = _REQUESTS,
    seed: int = 0,
    wait: bool = False,
) -> dict[str, Any]:
    """Runs batches one after the other for some seconds.

    Args:
        architecture: Name of an open_clip architecture with a causal text tower.
        precision: `fp32` or `bf16`.
        threads: Torch threads.
        batch: Requests in one batch.
        seconds: How long to measure.
        requests: Distinct requests to go round; nothing is kept between them.
        seed: Seed of the weights and the requests.
        wait: Whether to wait for the parent before measuring.

    Returns:
        `requests_per_s`, the latencies of a batch, and what was run.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    limit = _load(architecture, precision)
    prepared = Workload(seed).requests(0, max(requests, batch))
    batches = [
        prepared[start : start + batch] for start in range(0, len(prepared) - batch + 1, batch)
    ]
    with torch.inference_mode():
        for number in range(_WARM_UP_BATCHES):
            limit.scores(batches[number % len(batches)])
        wait_for_start(wait=wait)
        times: list[float] = []
        begin = now = time.perf_counter()
        while now - begin < seconds:
            before = now
            limit.scores(batches[len(times) % len(batches)])
            now = time.perf_counter()
            times.append(now - before)
    summary = latency(times)
    return {
        "architecture": architecture,
        "precision": precision,
        "device": limit.device.type,
        "threads": threads,
        "batch": batch,
        "seconds": now - begin,
        "requests": len(times) * batch,
        "requests_per_s": len(times) * batch / (now - begin),
        "batch_latency": asdict(summary) if summary else None,
    }


def _load(architecture: str, precision: str) -> _Limit:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture,
        precision="pure_bf16" if precision == "bf16" else "fp32",
        device=device,
    )
    model.eval()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return _Limit(model, preprocess, open_clip.get_tokenizer(architecture), device, dtype)


def _decode(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image)).convert("RGB")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.limit", description=__doc__)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--all", action="store_true", help="measure both precisions")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8, help="requests in one batch")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=_REQUESTS, help="distinct requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="wait for a line on stdin to start")
    options = parser.parse_args(arguments)
    precision = best_precision() if options.precision == "auto" else options.precision
    for one in ("fp32", "bf16") if options.all else (precision,):
        figures = measure(
            options.architecture,
            one,
            options.threads,
            options.batch,
            options.seconds,
            requests=options.requests,
            seed=options.seed,
            wait=options.wait,
        )
        emit({"event": "result", **figures})


if __name__ == "__main__":
    main()

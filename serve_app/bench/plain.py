"""open_clip as its own README uses it, one request at a time: what a person would write first.

Run by hand: `python -m serve_app.bench.plain --seconds 10`.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import open_clip
import torch
from PIL import Image

from serve_app.bench.child import emit, wait_for_start
from serve_app.bench.figures import latency
from serve_app.bench.workload import Workload

_WARM_UP_REQUESTS = 3


def measure(
    architecture: str,
    seconds: float,
    *,
    requests: int = 64,
    threads: int | None = None,
    seed: int = 0,
    wait: bool = False,
) -> dict[str, Any]:
    """Answers requests one after the other for some seconds.

    Args:
        architecture: Name of an open_clip architecture; its weights are random.
        seconds: How long to measure.
        requests: Distinct requests to go round; nothing is kept between them.
        threads: Torch threads; None: torch's own default, as the README leaves it.
        seed: Seed of the requests.
        wait: Whether to wait for the parent before measuring.

    Returns:
        `requests_per_s`, the latencies, and what was run.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model, _, preprocess = open_clip.create_model_and_transforms(architecture)
    model.eval()
    tokenizer = open_clip.get_tokenizer(architecture)
    prepared = Workload(seed).requests(0, requests)

    def answer(index: int) -> list[float]:
        request = prepared[index % len(prepared)]
        image = preprocess(Image.open(io.BytesIO(request.image))).unsqueeze(0)
        text = tokenizer(list(request.texts))
        with torch.no_grad():
            image_features = model.encode_image(image)
            text_features = model.encode_text(text)
            image_features /= image_features.norm(dim=-1, keepdim=True)
            text_features /= text_features.norm(dim=-1, keepdim=True)
            scores: list[float] = (image_features @ text_features.T)[0].tolist()
        return scores

    for index in range(_WARM_UP_REQUESTS):
        answer(index)
    wait_for_start(wait=wait)
    times: list[float] = []
    begin = now = time.perf_counter()
    while now - begin < seconds:
        before = now
        answer(len(times))
        now = time.perf_counter()
        times.append(now - before)
    summary = latency(times)
    return {
        "architecture": architecture,
        "precision": "fp32",
        "threads": torch.get_num_threads(),
        "seconds": now - begin,
        "requests": len(times),
        "requests_per_s": len(times) / (now - begin),
        "latency": asdict(summary) if summary else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.bench.plain", description=__doc__)
    parser.add_argument("--architecture", default="ViT-B-32")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--requests", type=int, default=64, help="distinct requests")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="wait for a line on stdin to start")
    options = parser.parse_args(arguments)
    figures = measure(
        options.architecture,
        options.seconds,
        requests=options.requests,
        threads=options.threads,
        seed=options.seed,
        wait=options.wait,
    )
    emit({"event": "result", **figures})


if __name__ == "__main__":
    main()

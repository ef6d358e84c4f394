"""Load over a Serve handle, from a Ray job of its own, through `AsyncSimilarityClient.from_app`.

Run by hand beside a running service: `python -m serve_app.bench.handle_load --clients 16`.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Sequence

import ray

from serve_app.bench.load import load_parser, prepared_requests, run_load, score_fault
from serve_app.bench.workload import BenchRequest
from serve_app.client.async_client import AsyncSimilarityClient
from serve_app.errors import ServeAppError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = load_parser("handle_load", __doc__)
    parser.add_argument("--address", default="auto", help="address of the Ray cluster")
    parser.add_argument("--app", default="serve_app", help="name of the Serve application")
    options = parser.parse_args(arguments)
    requests = prepared_requests(options)
    ray.init(address=options.address, logging_level="ERROR", log_to_driver=False)
    try:
        asyncio.run(_load(options.app, options.model, requests, options))
    finally:
        ray.shutdown()


async def _load(
    app: str, model: str | None, requests: Sequence[BenchRequest], options: Namespace
) -> None:
    # Without retries: a request that fails is a failure to report.
    async with AsyncSimilarityClient.from_app(app, retries=0) as client:

        async def send(index: int) -> str | None:
            request = requests[index]
            try:
                response = await client.score([request.image], request.texts, model=model)
            except ServeAppError as error:
                return f"{error.code}: {error.detail[:200]}"
            scores = [result.score for result in response.results]
            return score_fault(scores, len(request.texts))

        await client.ready()  # finding the application takes half a second, once
        await run_load(options, [send] * options.clients)


if __name__ == "__main__":
    main()

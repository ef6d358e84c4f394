"""Runs a batch so that one bad item harms only itself; knows no queue, no device, no model type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from serve_app.errors import ItemError, ModelFailedError, ModelUnavailableError
from serve_app.types import ItemFault

logger = logging.getLogger("serve_app.engine")

Compute = Callable[[Sequence[Any]], Sequence[Any]]
"""From items to one result per item, where a result may be an `ItemFault`."""

_DETAIL_LENGTH = 300


def run_poison_proof(compute: Compute, items: Sequence[Any]) -> list[Any]:
    """Runs a batch; while it fails it is halved, until the bad item stands alone.

    Args:
        compute: What to run. A wrong number of results counts as a failure.
        items: The batch.

    Returns:
        Per item, in order, its result, or an `ItemFault` where it failed alone. Where the model
        as a whole is not available, no item is to blame, and asking for each would only add load:
        all have that fault.
    """
    if not items:
        return []
    try:
        results = list(compute(items))
        if len(results) != len(items):
            raise ModelFailedError(f"the model gave {len(results)} results for {len(items)} items")
        return results
    except ModelUnavailableError as error:
        return [ItemFault(error.code, error.detail)] * len(items)
    except (Exception, SystemExit) as error:  # a library's exit() must not end the replica
        if len(items) == 1:
            logger.warning("model failed on one item", exc_info=True)
            return [_fault(error)]
        logger.warning("batch of %d failed (%s); splitting it", len(items), type(error).__name__)
    # Outside the handler: the traceback would keep the failed batch's tensors alive.
    middle = len(items) // 2
    return run_poison_proof(compute, items[:middle]) + run_poison_proof(compute, items[middle:])


def _fault(error: BaseException) -> ItemFault:
    if isinstance(error, ItemError):  # the model itself says what is wrong with the item
        return ItemFault(error.code, error.detail)
    said = f"{type(error).__name__}: {error}"[:_DETAIL_LENGTH]
    return ItemFault(ModelFailedError.code, f"The model failed on this item ({said}).")

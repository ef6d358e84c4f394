"""What callers do with answers: one number, or a NumPy array."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from serve_app.errors import UnexpectedError, error_from_code
from serve_app.types import EmbedResponse, ItemFault, ScoreResponse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def only_score(response: ScoreResponse) -> float:
    """The score of a response to one pair; raises the pair's error where it has one."""
    result = response.results[0]
    if result.error is not None:
        raise_fault(result.error)
    if result.score is None:
        raise UnexpectedError("The service gave neither a score nor an error.")
    return result.score


def embeddings_array(response: EmbedResponse) -> NDArray[np.float32]:
    """The embeddings as one array.

    Returns:
        Unit-length rows, float32, shape (inputs, dimension), in the order asked; the caller's own.

    Raises:
        ItemError: An input could not be embedded (`response.results` says which).
    """
    import numpy as np

    for result in response.results:
        if result.error is not None:
            raise_fault(result.error)
    content = b"".join(result.embedding or b"" for result in response.results)
    # A copy, because an array over bytes is read-only.
    array = np.frombuffer(content, dtype="<f4").astype(np.float32)
    return array.reshape(len(response.results), response.dimension)


def raise_fault(fault: ItemFault) -> NoReturn:
    """Raises an item's fault as the error it came from."""
    raise error_from_code(fault.code, fault.detail)

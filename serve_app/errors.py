"""The one tree of errors; knows nothing of HTTP frameworks, Ray or models.

ServeAppError
├── ConfigError                  the configuration has faults (all of them are named)
├── RequestError                 the request as a whole cannot be answered
│   ├── InvalidRequestError
│   ├── InvalidJsonError
│   ├── UnsupportedMediaTypeError
│   ├── BodyTooLargeError
│   ├── TooManyPairsError
│   ├── UnknownModelError
│   ├── UnknownExperimentError
│   ├── UnknownMetricError
│   ├── UnsupportedOperationError
│   ├── BodyTimeoutError
│   ├── ClientGoneError
│   ├── UnauthorizedError
│   ├── ForbiddenError
│   └── RateLimitedError
├── ItemError                    one image or text is at fault; its neighbours are not
│   ├── ImageUndecodableError
│   ├── ImageFormatError
│   ├── ImageTooLargeError
│   ├── ImageEmptyError
│   ├── ImageEncodingError
│   ├── ImageUrlDisabledError
│   ├── ImageUrlRefusedError
│   ├── ImageUrlUnreachableError
│   ├── ImagePathRefusedError
│   ├── TextEmptyError
│   ├── TextInvalidError
│   ├── TextTooLargeError
│   └── TextTooLongError
├── ModelError                   a declared model cannot do its work
│   ├── ModelLoadError
│   │   ├── ModelTooLargeError
│   │   ├── DeviceUnavailableError
│   │   ├── MissingExtraError
│   │   └── ParityError
│   ├── ModelReplacedError
│   ├── ModelUnavailableError
│   └── ModelFailedError
└── ServiceError                 the service cannot answer now
    ├── OverloadedError
    ├── DeadlineExceededError
    ├── NotReadyError
    ├── OperationFailedError
    └── UnexpectedError

Every class has a stable snake_case `code` and an HTTP `status_code`, and survives pickling: errors
cross process boundaries between replicas, so constructors take positional arguments only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar


class ServeAppError(Exception):
    """Base of all errors raised on purpose by serve_app.

    Args:
        detail: What is wrong, where, and what to do about it; shown to the person who asked.
    """

    code: ClassVar[str] = "error"
    status_code: ClassVar[int] = 500
    title: ClassVar[str] = "Error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a configuration: the dotted key it stands at, and what to do."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class ConfigError(ServeAppError):
    """The configuration is refused; `faults` names everything that is wrong, not only the first."""

    code = "config_invalid"
    title = "Configuration is not valid"

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        listing = "\n".join(f"  - {fault}" for fault in self.faults)
        super().__init__(f"The configuration has {count}:\n{listing}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...]]]:
        return (type(self), (self.faults,))


class RequestError(ServeAppError):
    """The request as a whole cannot be answered."""

    code = "bad_request"
    status_code = 400
    title = "Bad request"


class InvalidRequestError(RequestError):
    """The body does not have the documented shape."""

    code = "invalid_request"
    status_code = 422
    title = "Request is not valid"


class InvalidJsonError(RequestError):
    """The body is not JSON in UTF-8."""

    code = "invalid_json"
    title = "Body is not JSON"


class UnsupportedMediaTypeError(RequestError):
    """The body is neither JSON nor multipart form data."""

    code = "unsupported_media_type"
    status_code = 415
    title = "Media type is not supported"


class BodyTooLargeError(RequestError):
    """The body is larger than `limits.max_body_bytes`."""

    code = "body_too_large"
    status_code = 413
    title = "Body is too large"


class TooManyPairsError(RequestError):
    """The request asks for more pairs than `limits.max_pairs`."""

    code = "too_many_pairs"
    status_code = 422
    title = "Too many pairs"


class UnknownModelError(RequestError):
    """No model of this name or revision is declared."""

    code = "unknown_model"
    status_code = 404
    title = "Unknown model"


class UnknownExperimentError(RequestError):
    """No experiment of this name is declared."""

    code = "unknown_experiment"
    status_code = 404
    title = "Unknown experiment"


class UnknownMetricError(RequestError):
    """The model does not give this metric."""

    code = "unknown_metric"
    status_code = 422
    title = "Unknown metric"


class UnsupportedOperationError(RequestError):
    """The model cannot do what was asked, for example embed an image that it only scores."""

    code = "unsupported_operation"
    status_code = 422
    title = "Model does not support this"


class BodyTimeoutError(RequestError):
    """The request's body did not come within its time."""

    code = "body_timeout"
    status_code = 408
    title = "Body too slow"


class ClientGoneError(RequestError):
    """The client went away before it was answered; nobody hears this but logs and metrics."""

    code = "client_gone"
    status_code = 499
    title = "Client went away"


class UnauthorizedError(RequestError):
    """The request does not show a key that is known."""

    code = "unauthorized"
    status_code = 401
    title = "Not authorized"


class ForbiddenError(RequestError):
    """The key that the request shows may not do this."""

    code = "forbidden"
    status_code = 403
    title = "Not allowed"


class RateLimitedError(RequestError):
    """The key has used up what it may ask for at present.

    Attributes:
        retry_after_s: Whole seconds after which it may ask again.
    """

    code = "rate_limited"
    status_code = 429
    title = "Too many requests"
    retry_after_s = 1


class ItemError(ServeAppError):
    """One image or text is at fault; becomes the `error` of the items that use it."""

    code = "item_error"
    status_code = 422
    title = "Item cannot be scored"


class ImageUndecodableError(ItemError):
    """The bytes claim to be an image but cannot be decoded."""

    code = "image_undecodable"


class ImageFormatError(ItemError):
    """The bytes are not in one of the supported image formats."""

    code = "image_format_unsupported"


class ImageTooLargeError(ItemError):
    """The image has more pixels or bytes than the limits allow; found out before decoding."""

    code = "image_too_large"


class ImageEmptyError(ItemError):
    """There are no bytes."""

    code = "image_empty"


class ImageEncodingError(ItemError):
    """The string is neither a data URI nor base64."""

    code = "image_encoding_invalid"


class ImageUrlDisabledError(ItemError):
    """The image is a URL, and the service does not fetch URLs."""

    code = "image_url_disabled"


class ImageUrlRefusedError(ItemError):
    """The image is a URL that may not be fetched."""

    code = "image_url_refused"


class ImageUrlUnreachableError(ItemError):
    """The image is a URL behind which no image was found."""

    code = "image_url_unreachable"


class ImagePathRefusedError(ItemError):
    """The image is a path; the service never reads local files for a caller."""

    code = "image_path_refused"


class TextEmptyError(ItemError):
    """The text has nothing to score."""

    code = "text_empty"


class TextInvalidError(ItemError):
    """The text is not valid Unicode."""

    code = "text_invalid"


class TextTooLargeError(ItemError):
    """The text has more characters than `limits.max_text_characters`."""

    code = "text_too_large"


class TextTooLongError(ItemError):
    """The text has more tokens than the model's context, and `on_truncate` is `error`."""

    code = "text_too_long"


class ModelError(ServeAppError):
    """A declared model cannot do its work."""

    code = "model_error"
    title = "Model error"


class ModelLoadError(ModelError):
    """A declared model could not be loaded; the cause is chained and named in the detail."""

    code = "model_load_failed"
    status_code = 503
    title = "Model could not be loaded"


class ModelTooLargeError(ModelLoadError):
    """The model does not fit into the pool's byte budget, even alone."""

    code = "model_too_large"


class DeviceUnavailableError(ModelLoadError):
    """The pool or spec asks for a device that this machine does not have."""

    code = "device_unavailable"


class MissingExtraError(ModelLoadError):
    """A package that the backend needs is not installed; the detail has the pip command."""

    code = "missing_extra"


class ParityError(ModelLoadError):
    """A loaded model does not give its golden scores, so it may not answer."""

    code = "parity_failed"
    title = "Model drifts from its golden scores"


class ModelReplacedError(ModelError):
    """The revision has made room for its successor; the pipeline asks that one instead."""

    code = "model_replaced"
    status_code = 503
    title = "Model was replaced"


class ModelUnavailableError(ModelError):
    """What the model computes with is elsewhere, and cannot be reached or asked now."""

    code = "model_unavailable"
    status_code = 503
    title = "Model is not available"


class ModelFailedError(ModelError):
    """The model raised while it computed; the batch was split until this item stood alone."""

    code = "model_failed"
    title = "Model failed"


class ServiceError(ServeAppError):
    """The service cannot answer now; the same request may succeed later."""

    code = "service_error"
    status_code = 503
    title = "Service unavailable"


class OverloadedError(ServiceError):
    """More requests are waiting than the service is willing to queue."""

    code = "overloaded"
    title = "Too many requests are waiting"


class DeadlineExceededError(ServiceError):
    """The answer took longer than `limits.request_timeout_s`."""

    code = "deadline_exceeded"
    status_code = 504
    title = "Deadline exceeded"


class NotReadyError(ServiceError):
    """The service is still starting, or its default model cannot score."""

    code = "not_ready"
    title = "Not ready"


class OperationFailedError(ServiceError):
    """What an operator asked for could not come into effect."""

    code = "operation_failed"
    status_code = 409
    title = "Operation failed"


class UnexpectedError(ServiceError):
    """Something failed that should not; the log has the cause under the request id."""

    code = "internal_error"
    status_code = 500
    title = "Internal error"


def all_errors(base: type[ServeAppError] = ServeAppError) -> Iterator[type[ServeAppError]]:
    """Yields `base` and every subclass of it, parents first."""
    yield base
    for subclass in base.__subclasses__():
        yield from all_errors(subclass)


def error_from_code(code: str, detail: str) -> ServeAppError:
    """Rebuilds an error from what crossed the wire: the class of this `code`, or the base class."""
    for error in all_errors():
        if error.code == code and error is not ConfigError:
            return error(detail)
    return ServeAppError(f"{code}: {detail}")

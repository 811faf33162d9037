"""Statuses of an answer: canonical codes, and what they are over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf
from grpc import StatusCode

HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.ABORTED: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INTERNAL: 500,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
_BY_NUMBER = {code.value[0]: code for code in StatusCode}


class ServingError(Exception):
    """An answer other than OK.

    Args:
        code: The canonical code.
        message: What the client reads.
    """

    def __init__(self, code: StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Returns code and message, as errors within errors are quoted."""
        return f"{self.code.name}: {self.message}"


def invalid(message: str) -> ServingError:
    """Returns the error of a request that is wrong in itself."""
    return ServingError(StatusCode.INVALID_ARGUMENT, message)


@contextmanager
def tensorflow_errors() -> Iterator[None]:
    """Raises the errors of TensorFlow as `ServingError`, with their code."""
    try:
        yield
    except tf.errors.OpError as error:
        code = _BY_NUMBER.get(error.error_code, StatusCode.UNKNOWN)
        raise ServingError(code, error.message) from None

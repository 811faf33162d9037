"""Noise: what TensorFlow and its libraries print that tells a user nothing."""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Lines of compiled code: information, which needs no action.
LINES = re.compile(
    rb"I\d{4} |INFO: |WARNING: All log messages before absl|fully_quantize: "
    rb"|.*failed call to cuInit"
)
# Messages of the Python loggers of TensorFlow and absl.
MESSAGES = re.compile(
    r"Using a while_loop for converting"  # Random augmentation, once an operation.
    r"|\d+ out of the last \d+ calls to .* triggered tf.function retracing"
)


@contextmanager
def hidden() -> Iterator[None]:
    """Hides lines of noise that compiled code prints; other lines come at the end.

    Compiled code writes to file descriptor 2 and knows nothing of `sys.stderr`.
    """
    if sys.stderr is None:  # It is closed.
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with _memory_file() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if not LINES.match(line):
                    os.write(2, line)


def _memory_file():
    """Returns a file in memory, which a full disk does not refuse."""
    if hasattr(os, "memfd_create"):  # Linux alone has it.
        return open(os.memfd_create("stderr"), "w+b")
    return tempfile.TemporaryFile()


def import_tensorflow() -> None:
    """Imports TensorFlow without noise, now and later.

    Warnings stay. TensorFlow reads its environment variable when it is imported, but
    prints a few lines before that.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).addFilter(_is_worth_reading)
    with hidden():
        import tensorflow  # noqa: F401


def _is_worth_reading(record):
    return not MESSAGES.match(record.getMessage())

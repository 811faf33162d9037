import logging
import os
import subprocess
import sys

import pytest

from apps.common import noise

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795294181.618825   24599 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795294181.618825   24599 cuda.cc:1] failed call to cuInit: INTERNAL
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
fully_quantize: 0, inference_type: 6, input_inference_type: FLOAT32
"""
WARNINGS = """\
W0000 00:00:1795294181.618825   24599 memory.cc:2] Allocation exceeds free memory.
Something else, without an end of the line"""


def test_noise_of_compiled_code_is_hidden_and_warnings_stay(capfd):
    with noise.hidden():
        os.write(2, (NOISE + WARNINGS).encode())
    os.write(2, b"INFO: later\n")
    assert capfd.readouterr().err == WARNINGS + "INFO: later\n"


def test_warnings_stay_when_an_error_ends_the_code(capfd):
    def fail():
        os.write(2, WARNINGS.encode())
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"), noise.hidden():
        fail()
    assert capfd.readouterr().err == WARNINGS


def test_a_closed_standard_error_is_left_alone(monkeypatch, capfd):
    monkeypatch.setattr(sys, "stderr", None)
    with noise.hidden():
        os.write(2, NOISE.encode())
    assert capfd.readouterr().err == NOISE


@pytest.mark.parametrize(
    ("message", "is_hidden"),
    [
        ("Using a while_loop for converting Bitcast cause there is no converter", True),
        ("5 out of the last 5 calls to <f> triggered tf.function retracing.", True),
        ("The model is too large", False),
    ],
)
def test_loggers_leave_noise_out(message, is_hidden, caplog):
    noise.import_tensorflow()
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).warning(message)
    assert len(caplog.records) == (0 if is_hidden else 2)


def test_tensorflow_is_imported_and_used_quietly():
    program = (
        "from apps.common import noise; noise.import_tensorflow();"
        "import tensorflow as tf; print((tf.constant(1) + 1).numpy())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")

"""What several benchmarks measure by."""

import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image


def median_seconds(function, repetitions=5):
    """Returns the median seconds of a call, after two that are not counted."""
    return median_seconds_in_turns([function], repetitions)[0]


def median_seconds_in_turns(functions, repetitions):
    """Returns each function's median seconds; in turns, all meet the same noise."""
    durations = [[] for _ in functions]
    for repetition in range(-2, repetitions):
        for function, seconds in zip(functions, durations, strict=True):
            start = time.perf_counter()
            function()
            if repetition >= 0:  # The first ones prepare.
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in durations]


def run_and_measure(program, *arguments, folder=None):
    """Runs a Python program in a process of its own.

    Args:
        program: Its text.
        *arguments: What it finds in `sys.argv`.
        folder: Where it runs. Defaults to here.

    Returns:
        What it prints, and the most megabytes that it held.
    """
    program += (
        "\nstatus = open('/proc/self/status').read().split()"
        "\nprint(int(status[status.index('VmHWM:') + 1]) / 1024)\n"
    )
    line = [sys.executable, "-c", program, *map(str, arguments)]
    output = subprocess.check_output(line, text=True, cwd=folder)
    *printed, megabytes = output.splitlines()
    return printed, float(megabytes)


def bundle_start(bundle, *arguments):
    """Returns the seconds and megabytes of an edge bundle, from start to its answer.

    Args:
        bundle: The `edge` directory.
        *arguments: Inputs and flags of its program.
    """
    program = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    line = [program, bundle.resolve() / "run.py", *arguments]
    megabytes = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = median_seconds(
            lambda: megabytes.append(run_and_measure(*line, folder=folder)[1])
        )
    return seconds, max(megabytes)


@contextmanager
def made_up_photograph():
    """Gives the path of a made-up photograph of 640×480 pixels, as long as needed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.png")
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), "uint8")
        Image.fromarray(pixels).save(path)
        yield path

"""What several benchmarks measure by."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def median_seconds(function, repetitions=5):
    """Returns the median seconds of a call, after a first one that is not counted."""
    function()
    durations = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


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


def bundle_start(bundle, *flags):
    """Returns the seconds and megabytes of an edge bundle, from start to its answer.

    Args:
        bundle: The `edge` directory.
        *flags: Flags of its program.
    """
    program = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        photo = Path(folder, "photo.png")
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), "uint8")
        Image.fromarray(pixels).save(photo)
        megabytes = []
        seconds = median_seconds(
            lambda: megabytes.append(
                run_and_measure(
                    program, bundle.resolve() / "run.py", photo, *flags, folder=folder
                )[1]
            )
        )
    return seconds, max(megabytes)

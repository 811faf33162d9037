"""Measurements shared by the benchmarks: time, memory, start of an edge bundle."""

import contextlib
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from apps.common.errors import BadInput


def median_seconds(function, repetitions=5):
    """Returns the median duration of a call in seconds, after two warm-up calls."""
    return median_seconds_in_turns([function], repetitions)[0]


def median_seconds_in_turns(functions, repetitions):
    """Returns the median duration of each function in seconds.

    The functions take turns, so that noise of the machine affects all of them. Two
    warm-up rounds come first.
    """
    durations = [[] for _ in functions]
    for repetition in range(-2, repetitions):
        for function, seconds in zip(functions, durations, strict=True):
            start = time.perf_counter()
            function()
            if repetition >= 0:  # The rounds before are the warm-up.
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in durations]


def run_and_measure(program, *arguments, folder=None):
    """Runs a Python program in its own process and measures its memory.

    Args:
        program: Source code of the program.
        *arguments: Its command-line arguments.
        folder: Its working directory. Defaults to the current one.

    Returns:
        The lines that it prints, and its peak memory in megabytes.
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
    """Returns the time and memory that an edge bundle needs for its first answer.

    Args:
        bundle: The `edge` directory.
        *arguments: Inputs and flags of `run.py`.

    Returns:
        Seconds from the start of the process to its end, and peak megabytes.
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


@contextlib.contextmanager
def made_up_photograph():
    """Yields the path of a temporary image of 640×480 random pixels."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "photo.png")
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), "uint8")
        Image.fromarray(pixels).save(path)
        yield path


@contextlib.contextmanager
def quiet():
    """Hides what commands print."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield


def compare_with_baseline(title, problems, measure, num_seeds):
    """Prints the scores of small problems beside those of the baseline.

    Args:
        title: The title of the table.
        problems: By name, a function that loads the rows, the numbers of examples for
            training, and further arguments of `measure`. A problem whose data is
            missing is skipped.
        measure: Function from the rows, a number of examples, a seed and the further
            arguments to the scores of the baseline and of ours.
        num_seeds: Number of trainings of each.
    """
    print(f"{title:30}  baseline   ours        difference")
    means = []
    for name, (load_rows, sizes, *more) in problems.items():
        try:
            rows = load_rows()
        except (OSError, BadInput) as error:
            print(f"{name:24} skipped: {error}")
            continue
        for size in sizes:
            scores = [measure(rows, size, seed, *more) for seed in range(num_seeds)]
            (baseline, ours), (_, spread) = np.mean(scores, 0), np.std(scores, 0)
            means.append((baseline, ours))
            print(
                f"{name:23} {size:6}  {baseline:8.1f}  {ours:5.1f} ± {spread:3.1f}  "
                f"{ours - baseline:+10.1f}",
                flush=True,
            )
    if means:
        baseline, ours = np.mean(means, axis=0)
        print(f"{'mean':30}  {baseline:8.1f}  {ours:5.1f}  {ours - baseline:+16.1f}")

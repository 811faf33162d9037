"""The environment of all tests, and the command line of an application."""

import os
import runpy
import sys
from urllib.parse import urlsplit

import pytest

# TensorFlow and Keras read these when they are imported.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"
if "PYTEST_XDIST_WORKER" in os.environ:  # One core for each worker.
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"

pytest.register_assert_rewrite(
    "tests.apps.app_contract", "tests.layers.layer_contract", "tests.serving.client"
)

# Session fixtures of the application contract, which take most of the time.
SHARED = {"training", "exported", "device"}


def pytest_addoption(parser):
    group = parser.getgroup("serving")
    group.addoption(
        "--server-url",
        help="test the protocol of this server, such as http://localhost:8501, not the "
        "embedded one; models that it does not have are skipped",
    )
    group.addoption(
        "--server-grpc",
        help="its gRPC address (default: port 8500 of the same host)",
    )


def pytest_configure(config):
    """Refuses an address that is none."""
    if url := config.getoption("server_url"):
        address = urlsplit(url)
        if address.scheme != "http" or not address.netloc:
            raise pytest.UsageError(
                f"--server-url {url} is no address such as http://localhost:8501"
            )


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist reads the groups.
def pytest_collection_modifyitems(config, items):
    """Runs what shares the training of an application on one worker of pytest-xdist.

    These tests are marked `slow`. With `--server-url`, only those of the server run.
    """
    if config.getoption("server_url"):
        others = [item for item in items if "any_server" not in item.fixturenames]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    for item in items:
        if SHARED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.xdist_group(item.path.parent.name))


def run_command(application, *arguments):
    """Runs `python -m apps.APPLICATION ARGUMENTS` in this process.

    Returns:
        The exit status. The output is for `capsys`.
    """
    before = sys.argv
    sys.argv = [application, *map(str, arguments)]
    try:
        runpy.run_module(f"apps.{application}", run_name="__main__", alter_sys=False)
    except SystemExit as stop:
        return stop.code or 0
    finally:
        sys.argv = before
    return 0

"""Serves the released models with TensorFlow Serving: python -m serving

Starts `tensorflow_model_server` if it is installed. Otherwise it starts the official
container image with Docker. REST listens on port 8501, gRPC on port 8500.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

IMAGE = "tensorflow/serving:latest"


BROKEN_PIPE_STATUS = 141  # As the shell reports a program that SIGPIPE ended.


def main() -> NoReturn:
    """Replaces this process with the model server, or says why it cannot."""
    try:
        try:
            start()
        finally:
            print(end="", flush=True)
    except OSError as error:
        # What cannot be written is dropped; the interpreter would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(BROKEN_PIPE_STATUS)
        stop(
            f"{error.filename or 'standard output'}: {error.strerror}; check that the "
            "file is there and its permissions"
        )


def start() -> NoReturn:
    """Reads the flags and becomes the model server."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serves the released models with TensorFlow Serving.",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("saved_models"),
        help="folder that holds models.config and the models (default: saved_models)",
    )
    parser.add_argument("--rest-port", type=int, default=8501, help="default: 8501")
    parser.add_argument("--grpc-port", type=int, default=8500, help="default: 8500")
    arguments = parser.parse_args()
    if not (arguments.models / "models.config").is_file():
        stop(
            f"--models {arguments.models} holds no models.config; export a model first"
        )
    command = server_command(
        arguments.models.resolve(), arguments.rest_port, arguments.grpc_port
    )
    print(" ".join(command), flush=True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise OSError(error.errno, error.strerror, command[0]) from error


def server_command(models: Path, rest_port: int, grpc_port: int) -> list[str]:
    """Returns the command line of the model server.

    Args:
        models: Absolute path of the folder that holds `models.config`.
        rest_port: Port of the REST API.
        grpc_port: Port of the gRPC API.
    """
    if shutil.which("tensorflow_model_server"):
        return [
            "tensorflow_model_server",
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            f"--model_config_file={local_config(models)}",
        ]
    if shutil.which("docker"):
        return [
            *("docker", "run", "--rm", "-v", f"{models}:/models:ro"),
            *("-p", f"{rest_port}:8501", "-p", f"{grpc_port}:8500", IMAGE),
            "--model_config_file=/models/models.config",
        ]
    stop(
        "neither tensorflow_model_server nor docker is installed; install one of them "
        "to serve models"
    )


def local_config(models: Path) -> str:
    """Returns the path of a copy of models.config with the paths of this machine.

    The original holds the paths inside the container. The copy is a file in memory that
    the server inherits from this process. It disappears with the server, even if that
    is killed, so nothing stays on disk.
    """
    text = (models / "models.config").read_text("utf-8")
    # Without flags the file stays open when the server replaces this process. Only
    # Linux has such files, and TensorFlow Serving is released for Linux only.
    descriptor = os.memfd_create("models.config", flags=0)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text.replace('"/models/', f'"{models}/'))
    return f"/proc/self/fd/{descriptor}"


def stop(message: str) -> NoReturn:
    """Prints an error message and exits with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

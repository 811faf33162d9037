"""Serves the released models with TensorFlow Serving: python -m serving

Starts the official container image with Docker. REST listens on port 8501, gRPC on
port 8500, both for clients on this machine only. With `--host 0.0.0.0` they listen on
all interfaces. Only then an installed `tensorflow_model_server` comes first, since it
has no option to listen on one interface.
"""

import argparse
import ipaddress
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

IMAGE = "tensorflow/serving:latest"
FLAGS = (
    # The default, four for each core, refuses clients as soon as all are busy.
    "--grpc_max_threads=64",
    # As long as our clients wait. The default of 30 s is too short for large requests.
    "--rest_api_timeout_in_ms=60000",
)
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
    parser.add_argument(
        "--host",
        type=ipaddress.ip_address,
        default="127.0.0.1",
        help="IP address to listen on; 0.0.0.0 for all interfaces (default: 127.0.0.1)",
    )
    parser.add_argument("--rest-port", type=int, default=8501, help="default: 8501")
    parser.add_argument("--grpc-port", type=int, default=8500, help="default: 8500")
    parser.add_argument(
        "--batching",
        action="store_true",
        help="answer the requests of several clients in one batch, as batching.config "
        "in the folder of the models says",
    )
    arguments = parser.parse_args()
    for name in ("models.config", *(["batching.config"] if arguments.batching else [])):
        if not (arguments.models / name).is_file():
            stop(f"--models {arguments.models} holds no {name}; choose another folder")
    command = server_command(
        arguments.models.resolve(),
        arguments.host,
        arguments.rest_port,
        arguments.grpc_port,
        arguments.batching,
    )
    print(" ".join(command), flush=True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise OSError(error.errno, error.strerror, command[0]) from error


def server_command(
    models: Path,
    host: ipaddress.IPv4Address | ipaddress.IPv6Address,
    rest_port: int,
    grpc_port: int,
    has_batching: bool,
) -> list[str]:
    """Returns the command line of the model server.

    Args:
        models: Absolute path of the folder that holds `models.config`.
        host: The address to listen on. An installed server listens on all interfaces,
            so it is started only if that is asked for.
        rest_port: Port of the REST API.
        grpc_port: Port of the gRPC API.
        has_batching: Whether the server joins requests, as `batching.config` says.
    """

    def flags(folder, config):
        batching = f"--batching_parameters_file={folder}/batching.config"
        return [
            f"--model_config_file={config}",
            *FLAGS,
            *(["--enable_batching=true", batching] if has_batching else []),
        ]

    is_installed = shutil.which("tensorflow_model_server")
    if is_installed and host.is_unspecified:
        return [
            "tensorflow_model_server",
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            *flags(models, local_config(models)),
        ]
    if shutil.which("docker"):
        address = f"[{host}]" if host.version == 6 else host
        return [
            *("docker", "run", "--rm", "-v", f"{models}:/models:ro"),
            *("-p", f"{address}:{rest_port}:8501"),
            *("-p", f"{address}:{grpc_port}:8500"),
            IMAGE,
            *flags("/models", "/models/models.config"),
        ]
    if is_installed:
        stop(
            "tensorflow_model_server listens on all interfaces and has no option to "
            f"listen on {host} only; add --host 0.0.0.0 if others may reach it, or "
            "install docker"
        )
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

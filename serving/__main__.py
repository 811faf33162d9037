"""Runs TensorFlow Serving over the released models: python -m serving

It starts `tensorflow_model_server` where that is installed, and otherwise the official
container image with Docker. REST answers on port 8501, gRPC on 8500.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

IMAGE = "tensorflow/serving:latest"


def main():
    """Replaces this process by the model server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
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
    os.execvp(command[0], command)


def server_command(models: Path, rest_port, grpc_port):
    """Returns the command line of the model server.

    Args:
        models: The absolute path of the folder that holds `models.config`.
        rest_port: Port for REST.
        grpc_port: Port for gRPC.
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


def local_config(models: Path):
    """Writes models.config with this machine's paths instead of the container's.

    Returns:
        The path of a temporary file; the model server reads it when it starts.
    """
    text = (models / "models.config").read_text().replace('"/models/', f'"{models}/')
    with tempfile.NamedTemporaryFile("w", suffix=".config", delete=False) as file:
        file.write(text)
    return file.name


def stop(message):
    """Says what is wrong and ends with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

"""Command lines of TensorFlow Serving itself, installed or in a container."""

import dataclasses
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from serving.config import (
    CONTAINER_FOLDER,
    Address,
    BadInput,
    ModelConfig,
    write_models,
)

IMAGE = "tensorflow/serving:2.20.0"
CONTAINER_CONFIG = Path("/config")
# What the container runs if no file says which models there are.
CONTAINER_SCRIPT = """\
printf %s "$MODELS_CONFIG" > /tmp/models.config
exec tensorflow_model_server --port=8500 --rest_api_port=8501 \\
  --model_config_file=/tmp/models.config "$@"
"""
FLAGS = (
    # The default, four for each core, refuses clients as soon as all are busy.
    "--grpc_max_threads=64",
    # As the embedded server: a version that fails is not tried again.
    "--max_num_load_retries=0",
    # Labels may be in the file from the start.
    "--allow_version_labels_for_unavailable_models",
)


@dataclass(frozen=True)
class Options:
    """How to start TensorFlow Serving.

    Attributes:
        models: The file `models.config`, or the models if there is none.
        host: The address to listen on.
        rest_port: Port of the REST API.
        grpc_port: Port of the gRPC API.
        batching: The batching file, None to run each request by itself.
        monitoring: The monitoring file, None for no metrics.
        poll_seconds: How often to look for new versions.
        timeout_seconds: How long an answer may take.
    """

    models: Path | list[ModelConfig]
    host: Address
    rest_port: int
    grpc_port: int
    batching: Path | None
    monitoring: Path | None
    poll_seconds: float
    timeout_seconds: float


def docker(options: Options) -> list[str]:
    """Returns the command line of the official container image.

    Raises:
        BadInput: Docker is not installed.
    """
    if not shutil.which("docker"):
        raise BadInput(
            "--engine docker: docker is not installed; install it or leave out --engine"
        )
    host = options.host
    address = f"[{host}]" if host.version == 6 else str(host)
    if isinstance(options.models, Path):
        mounts = [f"{options.models.parent.resolve()}:{CONTAINER_FOLDER}:ro"]
        config = CONTAINER_FOLDER / options.models.name
        program = [IMAGE, f"--model_config_file={config}"]
    else:
        inside = [
            dataclasses.replace(model, base_path=CONTAINER_FOLDER / model.name)
            for model in options.models
        ]
        mounts = [
            f"{model.base_path}:{there.base_path}:ro"
            for model, there in zip(options.models, inside, strict=True)
        ]
        program = [
            *("-e", f"MODELS_CONFIG={write_models(inside)}", "--entrypoint", "sh"),
            *(IMAGE, "-c", CONTAINER_SCRIPT, "sh"),
        ]
    paths = {}
    for file in (options.batching, options.monitoring):
        if file:
            paths[file] = CONTAINER_CONFIG / file.name
            mounts.append(f"{file.resolve()}:{paths[file]}:ro")
    return [
        *("docker", "run", "--rm"),
        *(part for mount in mounts for part in ("-v", mount)),
        *("-p", f"{address}:{options.rest_port}:8501"),
        *("-p", f"{address}:{options.grpc_port}:8500"),
        *program,
        *_flags(options, paths),
    ]


def installed(options: Options) -> list[str]:
    """Returns the command line of an installed `tensorflow_model_server`.

    Raises:
        BadInput: It is not installed, or would listen on more interfaces than asked.
    """
    if not shutil.which("tensorflow_model_server"):
        raise BadInput(
            "--engine tensorflow_model_server: it is not installed; install it or "
            "leave out --engine"
        )
    if not options.host.is_unspecified:
        raise BadInput(
            "--engine tensorflow_model_server listens on all interfaces and has no "
            f"option to listen on {options.host} only; add --host 0.0.0.0 if others "
            "may reach it, or choose another engine"
        )
    return [
        "tensorflow_model_server",
        f"--port={options.grpc_port}",
        f"--rest_api_port={options.rest_port}",
        f"--model_config_file={_local_config(options.models)}",
        *_flags(options, {}),
    ]


def _flags(options: Options, paths: dict[Path, Path]) -> list[str]:
    """Returns the flags that both have in common.

    Args:
        options: How to start.
        paths: Where files are for the server, if that is another place.
    """
    flags = [
        *FLAGS,
        f"--rest_api_timeout_in_ms={round(options.timeout_seconds * 1000)}",
        f"--file_system_poll_wait_seconds={math.ceil(options.poll_seconds)}",
    ]
    if file := options.batching:
        flags.append("--enable_batching=true")
        flags.append(f"--batching_parameters_file={paths.get(file, file.resolve())}")
    if file := options.monitoring:
        flags.append(f"--monitoring_config_file={paths.get(file, file.resolve())}")
    return flags


def _local_config(models: Path | list[ModelConfig]) -> str:
    """Returns the path of a models.config with the paths of this machine.

    The user's file holds the paths inside the container. This one is a file in memory
    that the server inherits from this process. It disappears with the server, even if
    that is killed, so nothing stays on disk.
    """
    if isinstance(models, Path):
        folder = models.parent.resolve()
        text = models.read_text("utf-8").replace(f'"{CONTAINER_FOLDER}/', f'"{folder}/')
    else:
        text = write_models(models)
    # Without flags the file stays open when the server replaces this process. Only
    # Linux has such files, and TensorFlow Serving is released for Linux only.
    descriptor = os.memfd_create("models.config", flags=0)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)
    return f"/proc/self/fd/{descriptor}"

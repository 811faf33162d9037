"""Files of TensorFlow Serving: which models, how to batch, where to monitor."""

import dataclasses
import ipaddress
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
CONTAINER_FOLDER = Path("/models")  # Where the official image has its models.


class BadInput(Exception):
    """An error that the user can fix."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which versions of a model to serve.

    Attributes:
        name: The name in requests.
        base_path: The folder that holds the versions.
        num_latest: How many of the newest versions, 0 for all.
        versions: These versions alone, if there are any.
        labels: The version of each label.
    """

    name: str
    base_path: Path
    num_latest: int = 1
    versions: tuple[int, ...] = ()
    labels: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BatchingConfig:
    """How to join requests; the field names are those of the server's file.

    Attributes:
        max_batch_size: Most rows in a batch, and in a request.
        batch_timeout_micros: How long a request waits for others, in microseconds.
        max_enqueued_batches: How many batches may wait.
        num_batch_threads: How many batches run at once.
        allowed_batch_sizes: Batches are padded to one of these, if there are any.
        pad_variable_length_inputs: Whether to pad inputs to the longest in a batch.
        enable_large_batch_splitting: Whether to split requests larger than
            `max_execution_batch_size`.
        max_execution_batch_size: Most rows in a batch, if requests are split.
        thread_pool_name: The label of the metrics.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 8
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0
    thread_pool_name: str = ""

    @property
    def num_rows(self) -> int:
        """Most rows in one call of the model."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size


def find_models(where: Path) -> list[ModelConfig]:
    """Returns the models of a `models.config`, or those in a folder.

    Args:
        where: The file; a folder with `models.config`; a folder of models; one model;
            or one version.

    Raises:
        BadInput: There is none.
    """
    if where.is_file():
        return read_models(where)
    if not where.is_dir():
        raise BadInput(
            f"--models {where} does not exist; name a models.config or a folder"
        )
    if (where / "models.config").is_file():
        return read_models(where / "models.config")
    where = where.resolve()
    if (where / "saved_model.pb").is_file() and where.name.isdigit():
        return [
            ModelConfig(where.parent.name, where.parent, versions=(int(where.name),))
        ]
    if list_versions(where):
        return [ModelConfig(where.name, where)]
    models = [
        ModelConfig(path.name, path)
        for path in sorted(where.iterdir())
        if path.is_dir() and list_versions(path)
    ]
    if not models:
        raise BadInput(
            f"--models {where} holds no models.config and no model; a model is a "
            "folder with a SavedModel in a subfolder that is a number, such as 1"
        )
    return models


def list_versions(base_path: Path) -> dict[int, Path]:
    """Returns the folder of each version of a model, none if there is no such folder.

    Raises:
        OSError: The folder cannot be read.
    """
    try:
        return {
            int(path.name): path
            for path in sorted(base_path.iterdir())
            if path.name.isascii() and path.name.isdigit() and path.is_dir()
            if int(path.name) < 2**63
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}


def read_models(file: Path) -> list[ModelConfig]:
    """Returns the models of a `models.config`.

    Paths below `/models` are those of the container. If they do not exist, they are
    taken relative to the folder of the file, and so are relative paths.

    Raises:
        BadInput: The file is damaged or holds no models.
    """
    message = _parse(file, model_server_config_pb2.ModelServerConfig())
    try:
        return model_configs(message, file.resolve().parent)
    except ValueError as error:
        raise BadInput(f"{file}: {error}") from None


def model_configs(
    message: model_server_config_pb2.ModelServerConfig, folder: Path | None = None
) -> list[ModelConfig]:
    """Returns the models of a message.

    Args:
        message: As in `models.config`, or from a client.
        folder: Where relative paths begin. Defaults to the working directory.

    Raises:
        ValueError: A model has no name or no path, or a name occurs twice.
    """
    configs = []
    for model in message.model_config_list.config:
        if not model.name or not model.base_path:
            raise ValueError("each config needs a name and a base_path")
        if model.model_platform not in ("", "tensorflow"):
            raise ValueError(f"model_platform of {model.name} must be tensorflow")
        policy = model.model_version_policy
        kind = policy.WhichOneof("policy_choice") or "latest"
        configs.append(
            ModelConfig(
                model.name,
                _local_path(Path(model.base_path), folder),
                0 if kind == "all" else policy.latest.num_versions or 1,
                tuple(policy.specific.versions) if kind == "specific" else (),
                dict(model.version_labels),
            )
        )
    names = [config.name for config in configs]
    if len(set(names)) < len(names):
        raise ValueError("two models have the same name")
    if not configs:
        raise ValueError("model_config_list holds no config")
    return configs


def write_models(models: list[ModelConfig]) -> str:
    """Returns the text of a `models.config` of these models."""
    message = model_server_config_pb2.ModelServerConfig()
    for model in models:
        config = message.model_config_list.config.add(
            name=model.name,
            base_path=str(model.base_path),
            model_platform="tensorflow",
            version_labels=model.labels,
        )
        if model.versions:
            config.model_version_policy.specific.versions.extend(model.versions)
        elif model.num_latest:
            config.model_version_policy.latest.num_versions = model.num_latest
        else:
            config.model_version_policy.all.SetInParent()
    return text_format.MessageToString(message)


def _local_path(path: Path, folder: Path | None) -> Path:
    if folder is None or path.exists():
        return path.absolute()
    if path.is_relative_to(CONTAINER_FOLDER):
        return folder / path.relative_to(CONTAINER_FOLDER)
    return folder / path


def read_batching(file: Path) -> BatchingConfig:
    """Returns the parameters of a batching file.

    Raises:
        BadInput: The file is damaged or its values contradict each other.
    """
    message = _parse(file, _batching_parameters())
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.is_repeated:
            values[field.name] = tuple(value)
        else:
            values[field.name] = getattr(value, "value", value)
    config = BatchingConfig(**values)
    sizes = config.allowed_batch_sizes
    for name in ("max_batch_size", "num_batch_threads", "max_enqueued_batches"):
        if getattr(config, name) < 1:
            raise BadInput(f"{file}: {name} must be at least 1")
    if config.batch_timeout_micros < 0:
        raise BadInput(f"{file}: batch_timeout_micros must be at least 0")
    if list(sizes) != sorted(set(sizes)) or (sizes and sizes[-1] != config.num_rows):
        raise BadInput(
            f"{file}: allowed_batch_sizes must increase and end with the largest "
            f"batch, {config.num_rows}"
        )
    if config.num_rows > config.max_batch_size:
        raise BadInput(
            f"{file}: max_execution_batch_size must not exceed max_batch_size"
        )
    return config


def read_monitoring(file: Path) -> str | None:
    """Returns the path of the metrics, None if they are turned off.

    Raises:
        BadInput: The file is damaged.
    """
    config = _parse(file, _monitoring_config()).prometheus_config  # type: ignore[attr-defined]
    return (config.path or "/monitoring/prometheus/metrics") if config.enable else None


def _parse(file: Path, message: Message) -> Message:
    try:
        return text_format.Parse(file.read_text("utf-8"), message)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}; check the path") from None
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: {error}; fix the file") from None


def _batching_parameters() -> Message:
    """Returns the empty message of a batching file.

    `tensorflow-serving-api` does not have it.
    """
    wrapped = {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    }
    parameters = descriptor_pb2.DescriptorProto(name="BatchingParameters")
    for name, type_name in wrapped.items():
        _add_field(parameters, name, "TYPE_MESSAGE", f".google.protobuf.{type_name}")
    _add_field(parameters, "pad_variable_length_inputs", "TYPE_BOOL")
    _add_field(parameters, "allowed_batch_sizes", "TYPE_INT64", is_repeated=True)
    return _message([parameters])


def _monitoring_config() -> Message:
    """Returns the empty message of a monitoring file.

    `tensorflow-serving-api` does not have it.
    """
    prometheus = descriptor_pb2.DescriptorProto(name="PrometheusConfig")
    _add_field(prometheus, "enable", "TYPE_BOOL")
    _add_field(prometheus, "path", "TYPE_STRING")
    monitoring = descriptor_pb2.DescriptorProto(name="MonitoringConfig")
    _add_field(monitoring, "prometheus_config", "TYPE_MESSAGE", ".PrometheusConfig")
    return _message([prometheus, monitoring])


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    kind: str,
    type_name: str | None = None,
    is_repeated: bool = False,
) -> None:
    field = message.field.add(name=name, number=len(message.field) + 1)
    field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
    if type_name:
        field.type_name = type_name
    if is_repeated:
        field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED


def _message(messages: list[descriptor_pb2.DescriptorProto]) -> Message:
    """Returns an empty message of the last of these types."""
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(
        descriptor_pb2.FileDescriptorProto(
            name="file.proto",
            syntax="proto3",
            dependency=[wrappers.name],
            message_type=messages,
        )
    )
    found = pool.FindMessageTypeByName(messages[-1].name)
    return message_factory.GetMessageClass(found)()

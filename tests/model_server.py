"""One SavedModel behind REST and gRPC, on the embedded server."""

import tempfile
from contextlib import contextmanager
from pathlib import Path

from serving.config import ModelConfig
from serving.embedded import Settings, served


@contextmanager
def serve(name, path):
    """Serves a SavedModel directory; gives its REST and its gRPC address."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "1").symlink_to(Path(path).absolute())
        model = ModelConfig(name, Path(folder))
        with served(Settings([model], rest_port=0, grpc_port=0)) as (rest, grpc):
            yield (
                f"http://127.0.0.1:{rest}/v1/models/{name}",
                f"grpc://127.0.0.1:{grpc}/{name}",
            )

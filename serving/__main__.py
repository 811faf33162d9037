"""Serves SavedModels with the protocol of TensorFlow Serving: python -m serving

REST listens on port 8501, gRPC on port 8500, both for clients on this machine only.
With `--host 0.0.0.0` they listen on all interfaces. The embedded server needs no other
program. `--engine` starts TensorFlow Serving itself instead.
"""

import argparse
import ipaddress
import logging
import math
import os
import sys
from pathlib import Path
from typing import NoReturn

BROKEN_PIPE_STATUS = 141  # As the shell reports a program that SIGPIPE ended.
ENGINES = ("embedded", "tensorflow_model_server", "docker")


def main() -> None:
    """Serves, or says why it cannot."""
    try:
        try:
            start(read_arguments())
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


def read_arguments() -> argparse.Namespace:
    """Returns the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m serving",
        description="Serves SavedModels with the protocol of TensorFlow Serving.",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("saved_models"),
        help="models.config, a folder that holds it, a folder of models, or one model "
        "(default: saved_models)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="embedded",
        help="what serves: the embedded server, an installed TensorFlow Serving, or "
        "its official container image (default: embedded)",
    )
    parser.add_argument(
        "--host",
        type=ipaddress.ip_address,
        default="127.0.0.1",
        help="IP address to listen on; 0.0.0.0 for all interfaces (default: 127.0.0.1)",
    )
    parser.add_argument(
        "--rest-port", type=port, default=8501, help="0 for a free one (default: 8501)"
    )
    parser.add_argument(
        "--grpc-port", type=port, default=8500, help="0 for a free one (default: 8500)"
    )
    parser.add_argument(
        "--batching",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="answer the requests of several clients in one batch, as the file says "
        "(default: batching.config beside models.config)",
    )
    parser.add_argument(
        "--monitoring",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="give metrics to Prometheus, as the file says (default: monitoring.config "
        "beside models.config)",
    )
    parser.add_argument(
        "--poll-seconds",
        type=positive,
        default=1.0,
        help="how often to look for new versions (default: 1)",
    )
    parser.add_argument(
        "--timeout-seconds",
        type=positive,
        default=60.0,  # As long as our clients wait.
        help="how long an answer may take (default: 60)",
    )
    parser.add_argument(
        "--max-requests",
        type=count,
        default=256,
        help="requests at once; others are refused with status 503; embedded server "
        "only (default: 256)",
    )
    parser.add_argument(
        "--max-body-bytes",
        type=count,
        default=64 << 20,
        help="size of a request; larger ones are refused with status 413; embedded "
        "server only (default: 67108864)",
    )
    return parser.parse_args()


def start(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM, or becomes TensorFlow Serving."""
    # TensorFlow reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from serving.config import BadInput

    folder = arguments.models
    folder = folder.parent if folder.is_file() else folder
    for name in ("batching", "monitoring"):
        if getattr(arguments, name) == Path():
            setattr(arguments, name, folder / f"{name}.config")
    try:
        if arguments.engine == "embedded":
            serve(arguments)
        else:
            replace_process(arguments)
    except BadInput as error:
        stop(str(error))


def serve(arguments: argparse.Namespace) -> None:
    """Serves in this process."""
    from serving import config

    # These are read first, since TensorFlow takes seconds to import.
    models = config.find_models(arguments.models)
    batching, metrics_path = None, None
    if arguments.batching:
        batching = config.read_batching(arguments.batching)
    if arguments.monitoring:
        metrics_path = config.read_monitoring(arguments.monitoring)
    from serving import embedded, inference

    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("serving").setLevel(logging.INFO)
    # It reports what we report ourselves, and that the loader is an old one.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    settings = embedded.Settings(
        models=models,
        host=arguments.host,
        rest_port=arguments.rest_port,
        grpc_port=arguments.grpc_port,
        batching=batching,
        metrics_path=metrics_path,
        poll_seconds=arguments.poll_seconds,
        limits=inference.Limits(
            arguments.max_requests,
            arguments.max_body_bytes,
            arguments.timeout_seconds,
        ),
    )
    embedded.serve(settings)


def replace_process(arguments: argparse.Namespace) -> NoReturn:
    """Becomes TensorFlow Serving."""
    from serving import config, engines

    models = arguments.models
    models = models / "models.config" if models.is_dir() else models
    if not models.is_file():
        models = config.find_models(arguments.models)
    for file in (arguments.batching, arguments.monitoring):
        if file and not file.is_file():
            raise config.BadInput(f"{file}: No such file; name another file")
    options = engines.Options(
        models,
        arguments.host,
        arguments.rest_port,
        arguments.grpc_port,
        arguments.batching,
        arguments.monitoring,
        arguments.poll_seconds,
        arguments.timeout_seconds,
    )
    command = (engines.docker if arguments.engine == "docker" else engines.installed)(
        options
    )
    print(" ".join(command), flush=True)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise OSError(error.errno, error.strerror, command[0]) from error


def port(text: str) -> int:
    """Reads the number of a port."""
    number = int(text)
    if not 0 <= number < 65536:
        raise ValueError
    return number


def positive(text: str) -> float:
    """Reads a number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError
    return number


def count(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def stop(message: str) -> NoReturn:
    """Prints an error message and exits with status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()

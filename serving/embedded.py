"""The embedded server: both APIs in one process."""

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
import uvloop

from serving import warm_up
from serving.config import LOOPBACK, Address, BadInput, BatchingConfig, ModelConfig
from serving.inference import Inference, Limits
from serving.metrics import Metrics
from serving.models import Models
from serving.rest import Protocol, Rest
from serving.rpc import Rpc
from serving.status import ServingError

log = logging.getLogger("serving")

# Connections of REST clients, idle ones included. Others are answered 503.
MAX_CONNECTIONS = 1024


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        models: What to serve.
        host: The address to listen on.
        rest_port: Port of the REST API, 0 for a free one.
        grpc_port: Port of the gRPC API, 0 for a free one.
        batching: How to join requests, None to run each by itself.
        metrics_path: Path of the metrics for Prometheus, None for none.
        poll_seconds: How often to look for new versions.
        grace_seconds: How long requests may go on once the server stops.
        limits: What bounds the work.
    """

    models: Sequence[ModelConfig]
    host: Address = LOOPBACK
    rest_port: int = 8501
    grpc_port: int = 8500
    batching: BatchingConfig | None = None
    metrics_path: str | None = None
    poll_seconds: float = 1.0
    grace_seconds: float = 60.0
    limits: Limits = field(default_factory=Limits)


class Server:
    """A server that runs in the current event loop.

    Args:
        settings: How to serve.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        load = functools.partial(
            warm_up.load, timeout_seconds=settings.limits.timeout_seconds
        )
        self._models = Models(load)
        metrics = Metrics()
        self._inference = Inference(
            self._models, settings.limits, settings.batching, metrics
        )
        self._rest = _RestServer(
            uvicorn.Config(
                Rest(self._inference, settings.metrics_path),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level=logging.ERROR,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_keep_alive=60,
                timeout_graceful_shutdown=int(settings.grace_seconds),
            )
        )
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Makes `run` refuse new requests, answer those it has, and return."""
        self._stop.set()

    async def run(
        self, started: "asyncio.Future[tuple[int, int]] | None" = None
    ) -> None:
        """Serves until `stop` is called.

        Args:
            started: Gets the REST port and the gRPC port once both answer.

        Raises:
            BadInput: A port is taken, or a model cannot be loaded.
        """
        settings = self._settings
        rpc = Rpc(self._inference, settings.poll_seconds)
        rest_socket = _bind(settings.host, settings.rest_port, "--rest-port")
        try:
            grpc_port = rpc.bind(_join(settings.host, settings.grpc_port))
        except OSError:
            rest_socket.close()
            raise _taken(settings.host, settings.grpc_port, "--grpc-port") from None
        try:
            await self._load_models()
        except BaseException:
            rest_socket.close()
            await rpc.stop(0)
            await self._close()
            raise
        rest_port = rest_socket.getsockname()[1]
        watch = asyncio.create_task(self._models.watch(settings.poll_seconds))
        rest = asyncio.create_task(self._rest.serve([rest_socket]))
        await rpc.start()
        while not self._rest.started:
            await asyncio.sleep(0.01)
        log.info(
            "Serving REST on http://%s and gRPC on %s",
            _join(settings.host, rest_port),
            _join(settings.host, grpc_port),
        )
        if started is not None:
            started.set_result((rest_port, grpc_port))
        await self._stop.wait()
        log.info("Stopping; open requests are answered first")
        self._rest.should_exit = True
        await asyncio.gather(rest, rpc.stop(settings.grace_seconds))
        watch.cancel()
        await self._close()

    async def _load_models(self) -> None:
        await self._models.configure(self._settings.models)
        for version in self._models.failures():
            assert version.error is not None
            raise BadInput(
                f"model {version.name} version {version.number} cannot be served: "
                f"{version.error.message}; fix or remove this version"
            )
        for config in self._settings.models:
            try:
                self._models.find(config.name)
            except ServingError:
                raise BadInput(
                    f"No versions of servable {config.name} found under base path "
                    f"{config.base_path}; a version is a folder that is a number, such "
                    "as 1"
                ) from None

    async def _close(self) -> None:
        await self._models.close()
        self._inference.close()


class _RestServer(uvicorn.Server):
    """A server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        BadInput: A port is taken, or a model cannot be loaded.
    """

    async def run() -> None:
        server = Server(settings)
        running = asyncio.create_task(server.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        await running

    # What is imported stays. Collections need not look at it, which would take long.
    gc.collect()
    gc.freeze()
    uvloop.run(run())


@contextlib.contextmanager
def served(settings: Settings) -> Iterator[tuple[int, int]]:
    """Serves inside the `with` block, in a thread.

    Yields:
        The REST port and the gRPC port.

    Raises:
        BadInput: A port is taken, or a model cannot be loaded.
    """
    ready = threading.Event()
    ports: list[tuple[int, int]] = []
    errors: list[BaseException] = []
    stops: list[tuple[asyncio.AbstractEventLoop, Server]] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = Server(settings)
        stops.append((loop, server))
        started = loop.create_future()
        running = asyncio.create_task(server.run(started))
        await asyncio.wait([started, running], return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            ports.append(started.result())
            ready.set()
        await running

    def run_in_thread() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:
            errors.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run_in_thread, name="server")
    thread.start()
    ready.wait()
    if errors:
        raise errors[0]
    try:
        yield ports[0]
    finally:
        loop, server = stops[0]
        loop.call_soon_threadsafe(server.stop)
        thread.join()


def _join(host: Address, port: int) -> str:
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def _bind(host: Address, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if host.version == 6 else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((str(host), port))
    except OSError:
        bound.close()
        raise _taken(host, port, flag) from None
    return bound


def _taken(host: Address, port: int, flag: str) -> BadInput:
    return BadInput(
        f"{flag} {port}: {_join(host, port)} is in use or cannot be listened on; "
        "choose another port or --host"
    )

"""Versions of models: which are loaded, found, unloaded, and when.

Everything here runs in one event loop. Only loading and freeing run in a thread, so
that other versions answer meanwhile.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grpc import StatusCode

from serving.config import ModelConfig, list_versions
from serving.saved_model import SavedModel
from serving.status import ServingError

log = logging.getLogger("serving")

START, LOADING, AVAILABLE, UNLOADING, END = (
    "START",
    "LOADING",
    "AVAILABLE",
    "UNLOADING",
    "END",
)


class Version:
    """One version of a model and its state.

    Attributes:
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        error: Why it could not be loaded, None if nothing went wrong.
        saved_model: The SavedModel while it is in memory.
    """

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.state = START
        self.error: ServingError | None = None
        self.saved_model: SavedModel | None = None
        self._num_users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextlib.contextmanager
    def used(self) -> Iterator[SavedModel]:
        """Keeps the SavedModel in memory inside the `with` block."""
        assert self.saved_model is not None
        self.acquire()
        try:
            yield self.saved_model
        finally:
            self.release()

    def acquire(self) -> None:
        """Keeps the SavedModel in memory until `release` is called."""
        self._num_users += 1
        self._unused.clear()

    def release(self) -> None:
        """Ends what `acquire` began."""
        self._num_users -= 1
        if not self._num_users:
            self._unused.set()

    async def unused(self) -> None:
        """Waits until nobody uses the SavedModel."""
        await self._unused.wait()


class Models:
    """The models of a server.

    Args:
        load: Loads and warms up the version in a folder. It is called in a thread.
    """

    def __init__(self, load: Callable[[Path], SavedModel]) -> None:
        self._load = load
        self._configs: dict[str, ModelConfig] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._loader = ThreadPoolExecutor(1, "load")
        self._lock = asyncio.Lock()
        self._refreshes: set[asyncio.Task[None]] = set()

    # Looking up.

    def find(
        self, name: str, number: int | None = None, label: str | None = None
    ) -> Version:
        """Returns an available version, the newest unless a number or a label is given.

        Raises:
            ServingError: There is none.
        """
        config = self._configs.get(name)
        if label is not None:
            number = config.labels.get(label) if config else None
            if number is None:
                raise ServingError(
                    StatusCode.INVALID_ARGUMENT,
                    f"Unrecognized servable version label: {label}",
                )
        available = {
            version.number: version
            for version in self._versions.get(name, {}).values()
            if version.state == AVAILABLE
        }
        if number is None and available:
            return available[max(available)]
        if number is not None and number in available:
            return available[number]
        wanted = f"Latest({name})" if number is None else f"Specific({name}, {number})"
        raise ServingError(
            StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
        )

    def statuses(self, name: str, number: int | None = None) -> list[Version]:
        """Returns one version of a model or all, newest first.

        Raises:
            ServingError: There never was one.
        """
        versions = self._versions.get(name, {})
        if number is not None:
            if number not in versions:
                raise ServingError(
                    StatusCode.NOT_FOUND,
                    f"Could not find version {number} of model {name}",
                )
            return [versions[number]]
        if not versions:
            raise ServingError(
                StatusCode.NOT_FOUND, f"Could not find any versions of model {name}"
            )
        return [versions[each] for each in sorted(versions, reverse=True)]

    def failures(self) -> list[Version]:
        """Returns the versions that could not be loaded."""
        return [
            version
            for versions in self._versions.values()
            for version in versions.values()
            if version.error
        ]

    def __contains__(self, name: str) -> bool:
        """Whether a model of this name is configured."""
        return name in self._configs

    # Loading.

    async def configure(self, configs: Sequence[ModelConfig]) -> None:
        """Serves these models and no others, and loads their versions."""
        self._configs = {config.name: config for config in configs}
        await self.refresh()

    async def configure_and_wait(
        self, configs: Sequence[ModelConfig], poll_seconds: float
    ) -> None:
        """Serves these models and waits until each is loaded.

        Raises:
            ServingError: A version could not be loaded.
        """
        await self.configure(configs)
        while missing := [each for each in configs if not _wanted(each)]:
            for config in missing:
                log.warning(
                    "No versions of servable %s found under base path %s",
                    config.name,
                    config.base_path,
                )
            await asyncio.sleep(poll_seconds)
            await self.refresh()
        for config in configs:
            for number in _wanted(config):
                error = self._versions[config.name][number].error
                if error:
                    raise ServingError(
                        error.code, f"{config.name} version {number}: {error.message}"
                    )

    async def watch(self, poll_seconds: float) -> None:
        """Loads new versions and unloads removed ones until it is cancelled."""
        while True:
            await asyncio.sleep(poll_seconds)
            try:
                await self.refresh()
            except OSError as error:  # The versions that are loaded go on.
                log.error("Cannot look for new versions: %s", error)

    async def close(self) -> None:
        """Unloads all models, once nobody uses them."""
        await self.configure([])
        self._loader.shutdown()

    async def refresh(self) -> None:
        """Looks at the folders once: loads what is new, then unloads the rest.

        What it began goes on if the caller is cancelled.
        """
        task = asyncio.create_task(self._refresh())
        self._refreshes.add(task)
        task.add_done_callback(self._refreshes.discard)
        await asyncio.shield(task)

    async def _refresh(self) -> None:
        async with self._lock:
            for name in {*self._versions, *self._configs}:
                await self._refresh_model(name, self._configs.get(name))

    async def _refresh_model(self, name: str, config: ModelConfig | None) -> None:
        versions = self._versions.setdefault(name, {})
        there = list_versions(config.base_path) if config else {}
        wanted = _wanted(config) if config else {}
        for number, path in sorted(wanted.items()):
            version = versions.get(number)
            # A version that failed stays so, even if its folder changes.
            if version is None or (version.state == END and not version.error):
                versions[number] = Version(name, number)
                await self._load_version(versions[number], path)
        is_served = any(versions[number].state == AVAILABLE for number in wanted)
        for number, version in versions.items():
            # If the wanted versions are broken, the others go on.
            is_spare = number not in wanted and (is_served or number not in there)
            if version.state == AVAILABLE and is_spare:
                await self._unload_version(version)

    async def _load_version(self, version: Version, path: Path) -> None:
        version.state = LOADING
        loop = asyncio.get_running_loop()
        try:
            version.saved_model = await loop.run_in_executor(
                self._loader, self._load, path
            )
            version.state = AVAILABLE
            log.info("Loaded %s version %d", version.name, version.number)
        except ServingError as error:
            version.state, version.error = END, error
            log.error("Cannot load %s: %s", path, error)
        except Exception as error:
            version.error = ServingError(StatusCode.INTERNAL, str(error))
            version.state = END
            log.exception("Cannot load %s", path)

    async def _unload_version(self, version: Version) -> None:
        version.state = UNLOADING
        await version.unused()
        saved_model, version.saved_model = version.saved_model, None
        assert saved_model is not None
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._loader, saved_model.close)
        del saved_model
        # Graphs are full of cycles.
        await loop.run_in_executor(self._loader, gc.collect)
        version.state = END
        log.info("Unloaded %s version %d", version.name, version.number)


def _wanted(config: ModelConfig) -> dict[int, Path]:
    """Returns the folders of the versions that the configuration asks for."""
    there = list_versions(config.base_path)
    numbers = sorted(there)
    if config.versions:
        numbers = [number for number in numbers if number in config.versions]
    else:
        numbers = numbers[-config.num_latest :]
    return {number: there[number] for number in numbers}

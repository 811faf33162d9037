"""Joins the requests of several clients into batches."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from grpc import StatusCode

from serving.config import BatchingConfig
from serving.metrics import Metrics
from serving.saved_model import Function
from serving.status import ServingError, invalid

Arrays = list[np.ndarray]
Run = Callable[[Function, Arrays], Awaitable[Arrays]]


class _Task:
    """Rows that wait for a batch."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.size = len(arrays[0])
        self.start = time.perf_counter()
        self.outputs: asyncio.Future[Arrays] = (
            asyncio.get_running_loop().create_future()
        )


class _Queue:
    """The tasks of one function."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.tasks: deque[_Task] = deque()
        self.size = 0


class Batching:
    """Joins requests for the same function.

    Args:
        config: How to join them.
        run: Calls a function in a thread.
        metrics: What is counted.
    """

    def __init__(self, config: BatchingConfig, run: Run, metrics: Metrics) -> None:
        self._config = config
        self._run = run
        self._metrics = metrics
        self._queues: dict[Function, _Queue] = {}
        self._num_running = 0
        self._batches: set[asyncio.Task[None]] = set()

    async def submit(
        self, model_name: str, function: Function, arrays: Arrays
    ) -> Arrays:
        """Returns the outputs for arrays that are part of a batch.

        Raises:
            ServingError: The arrays have no or different batch dimensions, the request
                is too large, too many wait, or the batch fails.
        """
        if any(array.ndim == 0 for array in arrays):
            raise invalid(
                "Batching Run() input tensors must have at least one dimension"
            )
        size = len(arrays[0])
        if any(len(array) != size for array in arrays):
            raise invalid(
                "Batching Run() input tensors must have equal 0th-dimension size"
            )
        config = self._config
        if size > config.max_batch_size:
            raise invalid(
                f"Task size {size} is larger than maximum input batch size "
                f"{config.max_batch_size}"
            )
        queue = self._queues.setdefault(function, _Queue(model_name))
        if queue.size + size > config.max_enqueued_batches * config.num_rows:
            raise ServingError(
                StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full",
            )
        self._metrics.input_batch_size.add(model_name, value=size)
        tasks = [
            _Task([array[start : start + config.num_rows] for array in arrays])
            for start in range(0, max(size, 1), config.num_rows)
        ]
        queue.tasks.extend(tasks)
        queue.size += size
        self._start_batches(function, queue)
        parts = await asyncio.gather(*(task.outputs for task in tasks))
        return parts[0] if len(parts) == 1 else _join(parts)

    def _start_batches(self, function: Function, queue: _Queue) -> None:
        """Starts the batches that are full or old enough, while threads are free."""
        loop = asyncio.get_running_loop()
        while queue.tasks and self._num_running < self._config.num_batch_threads:
            age = time.perf_counter() - queue.tasks[0].start
            rest = self._config.batch_timeout_micros / 1e6 - age
            if queue.size < self._config.num_rows and rest > 0:
                loop.call_later(rest, self._start_batches, function, queue)
                return
            tasks = _take(queue, self._config.num_rows)
            if not tasks:
                continue
            self._num_running += 1
            batch = loop.create_task(self._run_batch(function, queue, tasks))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
        # A timer may call this for a queue that another one has followed.
        if not queue.tasks and self._queues.get(function) is queue:
            del self._queues[function]

    async def _run_batch(
        self, function: Function, queue: _Queue, tasks: list[_Task]
    ) -> None:
        try:
            outputs = await self._call(function, queue.model_name, tasks)
            for task, output in zip(tasks, outputs, strict=True):
                if not task.outputs.done():  # Its client may have left.
                    task.outputs.set_result(output)
        except Exception as error:
            for task in tasks:
                if not task.outputs.done():
                    task.outputs.set_exception(error)
        finally:
            self._num_running -= 1
            for waiting, its_queue in list(self._queues.items()):
                self._start_batches(waiting, its_queue)

    async def _call(
        self, function: Function, model_name: str, tasks: list[_Task]
    ) -> list[Arrays]:
        """Returns the outputs of each task."""
        metrics = self._metrics
        now = time.perf_counter()
        for task in tasks:
            microseconds = (now - task.start) * 1e6
            metrics.queuing_latency.add(
                self._config.thread_pool_name, value=microseconds
            )
        size = sum(task.size for task in tasks)
        allowed = (each for each in self._config.allowed_batch_sizes if each >= size)
        padding = next(allowed, size) - size if size else 0
        metrics.processed_batch_size.add(model_name, value=size + padding)
        metrics.padding_size.add(model_name, value=padding)
        metrics.wrapped_run_count.add()
        parts = [task.arrays for task in tasks]
        if self._config.pad_variable_length_inputs:
            parts = _pad_alike(parts)
        _check_alike(parts)
        if padding:  # The last row is a valid one.
            parts.append([np.repeat(array[:1], padding, 0) for array in parts[-1]])
        inputs = _join(parts) if len(parts) > 1 else parts[0]
        outputs = await self._run(function, inputs)
        for output in outputs:
            if output.ndim == 0:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor has 0 dimensions",
                )
            if len(output) != size + padding:
                raise ServingError(
                    StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of "
                    "the 0th dimension sizes of the input tensors",
                )
        ends = np.cumsum([task.size for task in tasks]).tolist()
        return [
            [output[end - task.size : end] for output in outputs]
            for task, end in zip(tasks, ends, strict=True)
        ]


def _take(queue: _Queue, num_rows: int) -> list[_Task]:
    """Removes the oldest tasks that fit into a batch."""
    tasks: list[_Task] = []
    size = 0
    while queue.tasks and size + queue.tasks[0].size <= num_rows:
        task = queue.tasks.popleft()
        queue.size -= task.size
        if not task.outputs.done():  # Otherwise its client has left.
            tasks.append(task)
            size += task.size
    return tasks


def _join(parts: Sequence[Arrays]) -> Arrays:
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _check_alike(parts: Sequence[Arrays]) -> None:
    for arrays in zip(*parts, strict=True):
        if len({array.shape[1:] for array in arrays}) > 1:
            raise ServingError(
                StatusCode.FAILED_PRECONDITION,
                "Tensors from different tasks have different shapes and padding is "
                "turned off. Set pad_variable_length_inputs to true, or ensure that "
                "all tensors with the same name have equal dimensions starting with "
                "the first dim.",
            )


def _pad_alike(parts: Sequence[Arrays]) -> list[Arrays]:
    """Pads each array with its first value to the largest of its input."""
    padded = []
    for arrays in zip(*parts, strict=True):
        if len({array.ndim for array in arrays}) > 1:
            return list(parts)
        sizes = np.max([array.shape[1:] for array in arrays], axis=0, initial=0)
        padded.append([_pad(array, sizes) for array in arrays])
    return [list(arrays) for arrays in zip(*padded, strict=True)]


def _pad(array: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    if not array.size:
        return array
    full = np.full((len(array), *sizes), array.flat[0], array.dtype)
    full[tuple(map(slice, array.shape))] = array
    return full

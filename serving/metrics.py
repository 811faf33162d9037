"""Counters and distributions under the names of TensorFlow Serving, for Prometheus.

Client libraries add `_total` to the names of counters. The server does not, so its
dashboards would not find them.
"""

import bisect
import itertools
import threading
from collections.abc import Sequence

PREFIX = ":tensorflow:serving:"


def _exponential(first: float, factor: float, count: int) -> list[float]:
    """Returns the upper bounds of buckets, each `factor` times the one before."""
    return [first * factor**power for power in range(count - 1)]


class Counter:
    """Counts events by labels.

    Args:
        name: The name after `:tensorflow:serving:`.
        labels: The names of the labels.
    """

    def __init__(self, name: str, *labels: str) -> None:
        self._name = PREFIX + name
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, count: int = 1) -> None:
        """Adds to the counter with these values of the labels."""
        with self._lock:
            self._counts[values] = self._counts.get(values, 0) + count

    def lines(self) -> list[str]:
        """Returns the counter in the text format of Prometheus."""
        return [
            f"# TYPE {self._name} counter",
            *(
                f"{self._name}{{{_labels(self._labels, values)}}} {count}"
                for values, count in sorted(self._counts.items())
            ),
        ]


class Distribution:
    """Counts values in buckets by labels.

    Args:
        name: The name after `:tensorflow:serving:`.
        labels: The names of the labels.
        bounds: The upper bound of each bucket but the last, which has none.
    """

    def __init__(self, name: str, *labels: str, bounds: Sequence[float]) -> None:
        self._name = PREFIX + name
        self._labels = labels
        self._bounds = bounds
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def add(self, *values: str, value: float) -> None:
        """Adds a value to the distribution with these values of the labels."""
        with self._lock:
            if values not in self._counts:
                self._counts[values] = [0] * (len(self._bounds) + 1)
                self._sums[values] = 0.0
            self._counts[values][bisect.bisect_left(self._bounds, value)] += 1
            self._sums[values] += value

    def lines(self) -> list[str]:
        """Returns the distribution in the text format of Prometheus."""
        lines = [f"# TYPE {self._name} histogram"]
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for values, counts in sorted(self._counts.items()):
            labels = _labels(self._labels, values)
            start = labels + "," if labels else ""
            totals = list(itertools.accumulate(counts))
            lines += [
                f'{self._name}_bucket{{{start}le="{bound}"}} {total}'
                for bound, total in zip(bounds, totals, strict=True)
            ]
            lines += [
                f"{self._name}_sum{{{labels}}} {self._sums[values]:g}",
                f"{self._name}_count{{{labels}}} {totals[-1]}",
            ]
        return lines


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(
        f'{name}="{escape(value)}"' for name, value in zip(names, values, strict=True)
    )


class Metrics:
    """What the server counts. Latencies are in microseconds."""

    def __init__(self) -> None:
        times = _exponential(10, 1.8, 33)
        sizes = _exponential(1, 2, 15)
        self.request_count = Counter("request_count", "model_name", "status")
        self.request_latency = Distribution(
            "request_latency", "model_name", "API", "entrypoint", bounds=times
        )
        self.runtime_latency = Distribution(
            "runtime_latency", "model_name", "API", "runtime", bounds=times
        )
        self.example_counts = Distribution(
            "request_example_counts", "model", bounds=sizes
        )
        self.example_count_total = Counter("request_example_count_total", "model")
        self.queuing_latency = Distribution(
            "batching_session:queuing_latency",
            "thread_pool_name",
            bounds=_exponential(100, 1.2, 52),
        )
        self.wrapped_run_count = Counter("batching_session:wrapped_run_count")
        self.input_batch_size = Distribution(
            "batching:input_batch_size", "model_name", bounds=sizes
        )
        self.processed_batch_size = Distribution(
            "batching:processed_batch_size", "model_name", bounds=sizes
        )
        self.padding_size = Distribution(
            "batching:padding_size", "model_name", bounds=sizes
        )

    def page(self) -> bytes:
        """Returns all in the text format of Prometheus."""
        lines = itertools.chain.from_iterable(
            each.lines() for each in vars(self).values()
        )
        return ("\n".join(lines) + "\n").encode()

"""Good and bad requests while versions change: `LOAD_SECONDS=600` for longer."""

import http.client
import itertools
import json
import os
import threading
import time

import psutil
import pytest
from tensorflow_serving.apis import predict_pb2

from tests.serving.client import eventually, started
from tests.serving.saved_models import publish, retract, save_numbered

SECONDS = float(os.environ.get("LOAD_SECONDS", "60"))
RELOAD_SECONDS = min(20, SECONDS / 6)
NUM_REST, NUM_GRPC = 56, 8  # Connections.
MEGABYTE = 1 << 20


def good(rows):
    return json.dumps({"instances": [0.0] * rows})


# Each with its status.
REQUESTS = [
    *[
        ("POST", "/v1/models/model:predict", good(rows), 200)
        for rows in (1, 2, 50, 5000)
    ],
    ("GET", "/v1/models/model", None, 200),
    ("GET", "/v1/models/model/metadata", None, 200),
    ("POST", "/v1/models/model:predict", '{"inputs": [1.0, 2.0]}', 200),
    ("POST", "/v1/models/model:predict", "{", 400),
    ("POST", "/v1/models/model:predict", '{"instances": ["a"]}', 400),
    ("POST", "/v1/models/model:predict", '{"instances": [[1.0], 2]}', 400),
    ("POST", "/v1/models/model/versions/999999:predict", good(1), 404),
    ("POST", "/v1/models/other:predict", good(1), 404),
    ("GET", "/nothing", None, 404),
    ("DELETE", "/v1/models/model", None, 400),
]


def rest_client(address, stop, counts, problems):
    connection = http.client.HTTPConnection(address, timeout=120)
    for method, path, body, status in itertools.cycle(REQUESTS):
        if stop.is_set():
            break
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
        counts["REST"] += 1
        if answer.status != status:
            problems.append((method, path, body and body[:80], answer.status, content))
        elif status == 200 and path.endswith(":predict"):
            values = json.loads(content)
            check(values.get("predictions") or values["outputs"], problems)
    connection.close()


def grpc_client(client, stop, counts, problems):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=3)
    request.inputs["x"].float_val.extend([0, 0, 0])
    while not stop.is_set():
        answer = client.predictions.Predict(request, timeout=120)
        counts["gRPC"] += 1
        values = list(answer.outputs["y"].float_val)
        check(values, problems)
        if values and values[0] != answer.model_spec.version.value:
            problems.append(("answered by another version", values, answer.model_spec))


def check(values, problems):
    """A version answers its own number alone."""
    if len(set(values)) != 1 or values[0] < 1:
        problems.append(("answered by a part of a model", values[:5]))


@pytest.mark.slow
def test_nothing_is_lost_while_versions_change(tmp_path):
    size = 250_000  # Variables of one megabyte.
    models = tmp_path / "model"
    publish(save_numbered(1, tmp_path / "source-1", size), models / "1")
    stop = threading.Event()
    counts, problems = {"REST": 0, "gRPC": 0}, []
    with started(models) as (client, process):

        def guarded(run, *arguments):
            try:
                run(*arguments)
            except Exception as error:
                problems.append((run.__name__, repr(error)))

        common = stop, counts, problems
        threads = [
            *[
                threading.Thread(
                    target=guarded, args=(rest_client, client.rest, *common)
                )
                for _ in range(NUM_REST)
            ],
            *[
                threading.Thread(target=guarded, args=(grpc_client, client, *common))
                for _ in range(NUM_GRPC)
            ],
        ]
        for thread in threads:
            thread.start()
        server = psutil.Process(process.pid)
        start = time.monotonic()
        # Before, the caches of the server fill.
        settled = start + min(60, SECONDS / 3)
        memory = []
        number = 1
        while (elapsed := time.monotonic() - start) < SECONDS and not problems:
            if elapsed > number * RELOAD_SECONDS:
                number += 1
                source = save_numbered(number, tmp_path / f"source-{number}", size)
                publish(source, models / str(number))
                eventually(
                    lambda number=number: (
                        client.states("model").get(number) == "AVAILABLE"
                    )
                )
                eventually(
                    lambda number=number: client.states("model")[number - 1] == "END"
                )
                retract(models / str(number - 1))
            if time.monotonic() > settled:
                memory.append(server.memory_info().rss)
            stop.wait(0.5)
        stop.set()
        for thread in threads:
            thread.join()
        duration = time.monotonic() - start
        assert process.poll() is None
    assert not problems, problems[:5]
    assert not any("Traceback" in line for line in process.lines)
    assert number > 3
    third = max(1, len(memory) // 3)
    early, late = (
        sorted(memory[:third])[third // 2],
        sorted(memory[-third:])[third // 2],
    )
    print(
        f"\n{duration:.0f} s, {NUM_REST} + {NUM_GRPC} connections: "
        f"{counts['REST']} REST and {counts['gRPC']} gRPC requests, {number - 1} "
        f"reloads; memory {early / MEGABYTE:.0f} MB after the start, "
        f"{late / MEGABYTE:.0f} MB at the end"
    )
    assert late < 1.1 * early

"""Measures the embedded server: python -m benchmarks.serving [PART …]

Parts: `mlp` (a small model, 4 clients), `batching` (image classification in batches,
compared with calls in process), `models` (each released model at 1 and 8 clients).
The server runs in a process of its own, the clients are threads of this one.
"""

import argparse
import base64
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import requests
import soundfile
import tensorflow as tf
from sklearn.datasets import load_sample_images  # Says that the files are there.
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

RELEASED = Path("saved_models")
PARTS = ("mlp", "batching", "models")
NUM_IMAGES = 16  # In a batch, as batching.config has it.
NUM_CLIENTS = 48  # While one batch runs, the next ones gather.


def main():
    """Reads the flags and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=PARTS)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="of each measurement"
    )
    arguments = parser.parse_args()
    measure_part = {
        "mlp": measure_mlp,
        "batching": measure_batching,
        "models": measure_models,
    }
    for part in arguments.parts or PARTS:
        measure_part[part](arguments.seconds)


def measure_mlp(seconds):
    """Prints requests a second of a network of 16-64-64-3 units, batch 1."""
    with tempfile.TemporaryDirectory() as folder:
        tf.keras.Sequential(
            [
                tf.keras.Input((16,), name="x"),
                tf.keras.layers.Dense(64, "relu"),
                tf.keras.layers.Dense(64, "relu"),
                tf.keras.layers.Dense(3, "softmax"),
            ]
        ).export(f"{folder}/mlp/1", verbose=False)
        with serving(f"{folder}/mlp") as ports:
            row = np.linspace(0, 1, 16, dtype="float32")[None]
            print("MLP, 4 clients")
            for api, call in clients(ports, "mlp", {"x": row}).items():
                measure(call, 4, 2.0)
                report(api, *measure(call, 4, seconds))


def measure_batching(seconds):
    """Prints images a second, of batches in process and of batches of the server."""
    image = sample_image()
    signature = tf.saved_model.load(
        str(RELEASED / "image_classification/1")
    ).signatures["serving_default"]
    batch = tf.constant([image] * NUM_IMAGES)

    def in_process():
        end = time.perf_counter() + seconds
        count = 0
        start = time.perf_counter()
        while time.perf_counter() < end:
            signature(image_bytes=batch)
            count += NUM_IMAGES
        return count / (time.perf_counter() - start)

    flags = ["--batching", RELEASED / "batching.config"]
    with serving(RELEASED / "image_classification", *flags) as ports:
        inputs = {"image_bytes": np.array([image], object)}
        apis = clients(ports, "image_classification", inputs)
        rates = {"in process": [], **{api: [] for api in apis}}
        for turn in range(-1, 3):  # The first turn is the warm-up.
            for api, rate in rates.items():
                if api == "in process":
                    value = in_process()
                else:
                    latencies, duration = measure(apis[api], NUM_CLIENTS, seconds)
                    value = len(latencies) / duration
                if turn >= 0:
                    rate.append(value)
    reference = np.median(rates["in process"])
    print(f"image classification in batches of {NUM_IMAGES}, {NUM_CLIENTS} clients")
    for api, rate in rates.items():
        value = np.median(rate)
        print(f"  {api:10} {value:8.1f} images/s  {value / reference:5.2f}")


def measure_models(seconds):
    """Prints requests a second and latencies of each released model."""
    with serving(RELEASED) as ports:
        for name, inputs in make_requests(ports[0]).items():
            for num_clients in (1, 8):
                print(f"{name}, clients: {num_clients}")
                for api, call in clients(ports, name, inputs).items():
                    report(api, *measure(call, num_clients, seconds))


def make_requests(rest_port):
    """Returns one request to each released model."""
    time_axis = np.arange(8000) / 8000
    recording = io.BytesIO()
    soundfile.write(
        recording, np.sin(440 * 2 * np.pi * time_axis) / 4, 8000, format="WAV"
    )
    inputs = {
        "image_bytes": sample_image(),
        "text": b"A man is sleeping on a couch.",
        "audio_bytes": recording.getvalue(),
    }
    found = {}
    names = re.findall(r'name: "(\w+)"', (RELEASED / "models.config").read_text())
    for name in names:
        address = f"http://127.0.0.1:{rest_port}/v1/models/{name}/metadata"
        metadata = requests.get(address, timeout=60).json()["metadata"]
        signatures = metadata["signature_def"]["signature_def"]
        (input_name,) = signatures["serving_default"]["inputs"]
        found[name] = {input_name: np.array([inputs[input_name]], object)}
    return found


def sample_image():
    """Returns a photograph of scikit-learn, a JPEG file of 640×427 pixels."""
    folder = Path(load_sample_images.__code__.co_filename).parent
    return (folder / "images/flower.jpg").read_bytes()


@contextmanager
def serving(models, *flags):
    """Yields the REST and the gRPC port of a server in a process of its own."""
    command = [sys.executable, "-m", "serving", "--models", models, *flags]
    command += ["--rest-port", "0", "--grpc-port", "0"]
    server = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        for line in server.stderr:
            if ports := re.search(
                r"REST on http://.*:(\d+) and gRPC on .*:(\d+)", line
            ):
                break
        else:
            sys.exit(f"The server did not start: {' '.join(map(str, command))}")
        drain = threading.Thread(target=server.stderr.read, daemon=True)
        drain.start()
        yield tuple(map(int, ports.groups()))
    finally:
        server.terminate()
        server.wait()


def clients(ports, name, inputs):
    """Returns, for each API, what makes a function that sends one request."""
    rest_port, grpc_port = ports
    values = {key: encode(array) for key, array in inputs.items()}
    body = json.dumps({"inputs": values}).encode()
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))

    def rest():
        connection = http.client.HTTPConnection("127.0.0.1", rest_port)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call():
            connection.request("POST", f"/v1/models/{name}:predict", body)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, content

        return call

    def rpc():
        channel = grpc.insecure_channel(
            f"127.0.0.1:{grpc_port}",
            [
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        return lambda: stub.Predict(request, timeout=60)

    return {"REST": rest, "gRPC": rpc}


def encode(array):
    """Returns an input as JSON."""
    if array.dtype == object:
        return [{"b64": base64.b64encode(value).decode()} for value in array]
    return array.tolist()


def measure(make_call, num_clients, seconds):
    """Returns the latencies of all requests in seconds, and how long it took."""
    latencies = [[] for _ in range(num_clients)]
    ready = threading.Barrier(num_clients)

    def run(mine):
        try:
            call = make_call()
            call()
        except BaseException:
            ready.abort()  # The others must not wait.
            raise
        ready.wait(60)
        begin = time.perf_counter()
        while (start := time.perf_counter()) < begin + seconds:
            call()
            mine.append(time.perf_counter() - start)
        return begin

    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(run, mine) for mine in latencies]
    end = time.perf_counter()
    errors = [client.exception() for client in clients if client.exception()]
    if errors:  # The first reason, not that others stopped waiting for it.
        raise min(
            errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)
        )
    start = min(client.result() for client in clients)
    return [each for mine in latencies for each in mine], end - start


def report(api, latencies, duration):
    """Prints requests a second and latencies."""
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    print(
        f"  {api:5} {len(latencies) / duration:8.1f} requests/s  "
        f"p50 {p50:7.2f} ms  p99 {p99:7.2f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""A client of both APIs that sends any request, wrong ones too."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

ROOT = Path(__file__).parents[2]


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self):
        return json.loads(self.body.decode("utf-8", "surrogateescape"))

    @property
    def error(self):
        return self.json["error"]


class Client:
    def __init__(self, rest, rpc):
        self.rest = rest
        self.rpc = rpc
        self.channel = grpc.insecure_channel(
            rpc, [("grpc.max_receive_message_length", -1)]
        )
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(
            self.channel
        )
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def request(self, method, path, body=None, headers=None, timeout=60):
        if isinstance(body, str):
            body = body.encode()
        connection = http.client.HTTPConnection(self.rest, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", f"/v1/models/{path}")

    def post(self, path, request):
        body = request if isinstance(request, (str, bytes)) else json.dumps(request)
        return self.request("POST", f"/v1/models/{path}", body)

    def predict(self, model, request):
        return self.post(f"{model}:predict", request)

    def states(self, model):
        """Returns the state of each version, none of an unknown model."""
        answer = self.get(model)
        statuses = answer.json.get("model_version_status", [])
        return {int(each["version"]): each["state"] for each in statuses}


def client_of(ports):
    rest, rpc = ports
    return Client(f"127.0.0.1:{rest}", f"127.0.0.1:{rpc}")


@contextmanager
def started(models, *flags):
    """Runs `python -m serving` on free ports; gives its client and its process."""
    command = [sys.executable, "-m", "serving", "--models", models]
    command += ["--rest-port", "0", "--grpc-port", "0", *flags]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    process.lines = []
    ports = None
    try:
        for line in process.stderr:
            process.lines.append(line)
            if ports := re.search(
                r"REST on http://.*:(\d+) and gRPC on .*:(\d+)", line
            ):
                break
        assert ports, process.lines
        reader = threading.Thread(target=process.lines.extend, args=(process.stderr,))
        reader.start()
        yield client_of(ports.groups()), process
    finally:
        process.terminate()
        try:
            process.wait(timeout=120)
        finally:
            process.kill()  # If it does not end. The test fails then.
    reader.join()


def eventually(condition, seconds=60):
    """Waits until a condition holds, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "It does not become true."
        time.sleep(0.02)
    return result

"""What clients cannot do: stop the server, reach files, or take all its memory."""

import contextlib
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving import codec, rest
from serving.config import ModelConfig
from serving.embedded import Settings, served
from serving.inference import Limits
from serving.saved_model import SavedModel
from tests.serving.client import client_of, eventually, started
from tests.serving.saved_models import save, save_numbered

MEGABYTE = 1 << 20
NUM_MALFORMED = 2000
GOOD = {"instances": [0.0]}


class Slow(tf.Module):
    """Answers after `x[0]` rounds of a loop."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        def more(step, y):
            return step < x[0]

        def go_on(step, y):
            return step + 1, tf.linalg.matmul(y, y) / 300

        _, y = tf.while_loop(more, go_on, (0.0, tf.ones([300, 300])))
        return {"y": x + 0 * y[0, 0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_numbered(1, folder / "model/1")
    save(Slow(), folder / "slow/1")
    return folder


def serve(folder, **limits):
    models = [ModelConfig(name, folder / name) for name in ("model", "slow")]
    return served(Settings(models, rest_port=0, grpc_port=0, limits=Limits(**limits)))


@pytest.fixture(scope="module")
def server(folder):
    """A server in a process of its own, which must not write a traceback."""
    with started(folder) as (client, process):
        yield client, process
    assert "Traceback" not in "".join(process.lines)


@pytest.fixture
def client(server):
    client, process = server
    yield client
    assert process.poll() is None
    assert client.predict("model", GOOD).status == 200


def send(address, data, timeout=10):
    """Sends bytes and returns what comes back until the server closes or waits."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        received = b""
        try:
            connection.sendall(data)
            with contextlib.suppress(OSError):  # The server may have closed already.
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionError):
            pass
        return received


def malformed_requests(count):
    """Returns requests that are wrong in many ways."""
    generator = random.Random(0)
    body = json.dumps({"instances": [0.0, 1.0], "signature_name": "serving_default"})
    paths = [
        "/v1/models/model:predict",
        "/v1/models/../../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd:predict",
        "/v1/models/%00:predict",
        "/v1/models/model/versions/99999999999999999999:predict",
        "/v1/models/model/labels/%ff:predict",
        "//etc/passwd",
        "/v1/models/" + "a" * 3000,
        "*",
        "http://other/v1/models/model:predict",
        "/v1/models/model:predict#x",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/\u00fc:predict",
    ]
    for index in range(count):
        text = list(body)
        for _ in range(generator.randint(1, 5)):  # Damages the body.
            place = generator.randrange(len(text))
            text[place] = generator.choice(
                ["", "\0", "\x80", '"', "[", "{", "}", "9" * 50]
            )
        content = "".join(text).encode("utf-8" if index % 2 else "latin-1")
        method = generator.choice(
            ["POST"] * 6 + ["GET", "PUT", "TRACE", "CONNECT", "FOO"]
        )
        length = generator.choice([str(len(content))] * 6 + ["-1", "x", "99", "0"])
        path = generator.choice([paths[0], *paths]).encode()
        head = b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n" % (
            method.encode(),
            path,
            length.encode(),
        )
        extra = generator.choice(
            [
                b"",
                b"",
                b"Connection: close\r\n",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Encoding: gzip\r\n",
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
                b"Expect: 100-continue\r\n",
                b": no name\r\n",
                b"X: \xff\xfe\r\n",
            ]
        )
        data = head + extra + b"\r\n" + content
        if index % 10 == 0:
            data = generator.randbytes(generator.randint(1, 300))
        yield data


def test_malformed_requests_do_no_harm(client, server):
    requests = list(malformed_requests(NUM_MALFORMED))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda data: send(client.rest, data, 5), requests))
    for request, answer in zip(requests, answers, strict=True):
        assert not answer.startswith(b"HTTP/1.1 5"), (request, answer)
        assert b"root:" not in answer
        assert b"Traceback" not in answer
    assert (
        sum(answer.startswith(b"HTTP/1.1 4") for answer in answers) > NUM_MALFORMED / 2
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"[" * 1_000_000,
            "JSON Parse error: Nesting of more than 256 levels. at offset",
        ),
        (
            b'{"inputs": ' + b"[" * 200 + b"1" + b"]" * 200 + b"}",
            "at most 64 dimensions",
        ),
        (b'{"a":' * 100_000, "JSON Parse error: Nesting of more than 256 levels."),
        (b'{"inputs": [' + b"1," * 10_000 + b"]}", "JSON Parse error: Invalid value."),
    ],
    ids=["open lists", "dimensions", "open objects", "a comma too many"],
)
def test_wrong_json_is_refused(client, body, message):
    answer = client.predict("model", body)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize("depth", [257, 300, 500, 900, 1000])
@pytest.mark.parametrize(
    ("start", "value", "end"),
    [("[", "1", "]"), ('{"a":', "1", "}"), ('{"a":[1,', "[]", "]}"), ('{"a":', "", "")],
)
def test_deep_json_is_refused(client, start, value, end, depth):
    text = start * depth + value + end * depth
    for body in (
        text,
        f'{{"instances": {text}}}',
        f'{{"x": 1, "inputs": [1, {text}]}}',
    ):
        answer = client.predict("model", body)
        assert answer.status == 400
        assert "JSON Parse error: Nesting of more than 256 levels." in answer.error


def test_a_bug_is_answered_and_logged(folder, monkeypatch, caplog):
    monkeypatch.setattr(codec, "read_rows", None)
    with serve(folder) as ports:
        answer = client_of(ports).predict("model", GOOD)
    assert (answer.status, answer.error) == (500, "Internal error")
    assert "Traceback" in caplog.text


def peak_memory(process):
    """Returns the most bytes that a process has had in memory."""
    status = Path(f"/proc/{process.pid}/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def test_large_bodies_are_refused_and_not_kept(client, server):
    limit = 64 * MEGABYTE
    _, process = server
    before = peak_memory(process)
    body = b'{"inputs": "' + b"a" * 200 * MEGABYTE + b'"}'
    for _ in range(3):
        answer = client.predict("model", body)
        assert answer.status == 413
        assert answer.error == f"The body is larger than {limit} bytes"
    assert peak_memory(process) < before + 2 * limit


def tensor_request(size, value=1.0, model="model"):
    """Returns a request of one value that is repeated."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=size)
    request.inputs["x"].float_val.append(value)
    return request


def test_a_small_message_for_a_large_tensor_is_refused(client):
    predict = client.predictions.Predict
    assert len(predict(tensor_request(4 * MEGABYTE)).outputs["y"].float_val) > 0
    with pytest.raises(grpc.RpcError, match="tensor parsing error: x"):
        predict(tensor_request(16 * MEGABYTE + 1))


def test_tensors_of_several_clients_have_a_limit_together(folder):
    # One takes 400 of 1600 bytes.
    with serve(folder, max_body_bytes=400) as ports, ThreadPoolExecutor(8) as pool:
        client = client_of(ports)

        def ask(value):
            try:
                client.predictions.Predict(tensor_request(100, value, "slow"))
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        codes = list(pool.map(ask, [10_000.0] * 8))
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert codes.count(grpc.StatusCode.OK) >= 4
        assert ask(0.0) == grpc.StatusCode.OK


def test_large_requests_are_parsed_one_at_a_time(folder, monkeypatch):
    parsed, most = [], []
    parse, read_rows = codec.json_text.parse, codec.read_rows

    def parse_slowly(body):
        parsed.append(body)
        most.append(len(parsed))
        time.sleep(0.05)  # Long enough for the others to arrive.
        return parse(body)

    def read_and_forget(*arguments):
        parsed.pop()
        return read_rows(*arguments)

    monkeypatch.setattr(codec.json_text, "parse", parse_slowly)
    monkeypatch.setattr(codec, "read_rows", read_and_forget)
    with serve(folder) as ports, ThreadPoolExecutor(6) as pool:
        client = client_of(ports)
        request = {"instances": [0.0] * 5000}
        answers = pool.map(lambda _: client.predict("model", request), range(6))
        assert [answer.status for answer in answers] == [200] * 6
    assert most == [1] * 6


def test_bodies_count_until_they_are_answered(folder):
    # One takes 100 of 400 bytes.
    with serve(folder, max_body_bytes=100) as ports, ThreadPoolExecutor(8) as pool:
        client = client_of(ports)
        body = json.dumps({"instances": [10_000.0]}).ljust(100)
        answers = pool.map(lambda _: client.predict("slow", body).status, range(8))
        statuses = list(answers)
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 4
        assert client.predict("model", GOOD).status == 200


def test_a_client_that_does_not_read_is_dropped(folder, monkeypatch):
    monkeypatch.setattr(rest, "WRITE_SECONDS", 0.2)
    with serve(folder) as ports:
        host, port = client_of(ports).rest.split(":")
        body = json.dumps({"instances": [0.0] * 2_000_000}).encode()
        head = "POST /v1/models/model:predict HTTP/1.1\r\nConnection: close\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(head.encode() + body)
            answer = connection.recv(1000)
            time.sleep(1)
            while part := connection.recv(1 << 20):
                answer += part
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"}")


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(client):
    import gzip

    body = gzip.compress(b"a" * 100 * MEGABYTE)
    headers = {"Content-Encoding": "gzip"}
    answer = client.request("POST", "/v1/models/model:predict", body, headers)
    assert answer.status == 413


def test_grpc_garbage_does_no_harm(client):
    generator = random.Random(1)
    for _ in range(50):
        send(client.rpc, generator.randbytes(500), 0.2)
        send(
            client.rpc,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + generator.randbytes(200),
            0.2,
        )
        call = client.channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict", lambda data: data, None
        )
        with pytest.raises(grpc.RpcError) as error:
            call(b"\x0a\xff" + generator.randbytes(100), timeout=10)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as error:
        client.channel.unary_unary("/no.Service/Method", lambda data: data, None)(b"")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "model"
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(1.0)
    for content in (b"", b"1234", b"x" * 100):
        request.inputs["x"].tensor_content = content
        for dtype in range(131):
            request.inputs["x"].dtype = dtype
            if dtype != 1 or len(content) == 100:
                with pytest.raises(grpc.RpcError) as error:
                    client.predictions.Predict(request)
                assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    request.inputs["x"].tensor_content = b""
    request.inputs["x"].dtype = 1
    assert client.predictions.Predict(request).outputs["y"].float_val[0] == 1.0


def test_slow_clients_do_not_hold_up_others(client):
    host, port = client.rest.split(":")
    slow = []
    for index in range(200):
        connection = socket.create_connection((host, int(port)))
        head = b"POST /v1/models/model:predict HTTP/1.1\r\nContent-Length: 100\r\n"
        connection.sendall(head + (b"\r\n{" if index % 2 else b"X: "))
        slow.append(connection)
    for _ in range(20):
        assert client.predict("model", GOOD).status == 200
    for connection in slow:
        connection.close()


def test_a_head_that_does_not_end_is_cut_off(folder, monkeypatch):
    monkeypatch.setattr(rest, "HEADER_SECONDS", 0.2)
    with serve(folder) as ports:
        host, port = client_of(ports).rest.split(":")
        for start in (b"", b"GET / HTTP/1.1\r\nX:"):
            with socket.create_connection((host, int(port)), 30) as connection:
                connection.sendall(start)
                assert connection.recv(100) == b""  # The server has closed it.


def test_a_body_that_does_not_end_is_refused(folder):
    with serve(folder, timeout_seconds=0.3) as ports:
        host, port = client_of(ports).rest.split(":")
        head = b"POST /v1/models/model:predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n"
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(head)
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_is_too_large_is_refused(folder):
    with serve(folder) as ports:
        head = b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000
        assert b" 400 " in send(client_of(ports).rest, head)


def test_requests_beyond_the_limit_are_refused(folder):
    with serve(folder, max_requests=2) as ports:
        client = client_of(ports)
        slow = {"instances": [3000.0]}

        def until_accepted():
            # The request below may be the one that takes the last place.
            return eventually(
                lambda: (
                    (answer := client.predict("slow", slow)).status != 503 and answer
                )
            )

        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(until_accepted) for _ in range(2)]
            refusal = eventually(
                lambda: (
                    (answer := client.predict("model", GOOD)).status == 503 and answer
                )
            )
            assert refusal.error == (
                "The server already answers 2 requests; try again later"
            )
            assert [each.result().status for each in waiting] == [200, 200]
        assert client.predict("model", GOOD).status == 200


def test_an_answer_that_takes_too_long_is_given_up(folder):
    with serve(folder, timeout_seconds=0.5) as ports:
        client = client_of(ports)
        answer = client.predict("slow", {"instances": [1e9]})
        assert (answer.status, answer.error) == (
            504,
            "Timed out waiting for notification",
        )
        # The computation ends, too.
        eventually(lambda: client.predict("slow", {"instances": [1.0]}).status == 200)


def test_a_model_with_loops_keeps_its_timeout_after_many_fast_calls(folder):
    with serve(folder, timeout_seconds=0.5) as ports:
        client = client_of(ports)
        for _ in range(300):
            assert client.predict("slow", {"instances": [0.0]}).status == 200
        assert client.predict("slow", {"instances": [1e4]}).status == 504


def test_signatures_with_loops_are_not_run_in_the_event_loop(folder, tmp_path):
    dense = tf.keras.layers.Dense(3, "relu")
    tf.keras.Sequential([tf.keras.Input((16,)), dense]).export(tmp_path, verbose=False)
    for path, is_bounded in (
        (tmp_path, True),
        (folder / "model/1", True),
        (folder / "slow/1", False),
    ):
        saved_model = SavedModel(path, 60)
        assert saved_model.is_bounded("serving_default") == is_bounded
        saved_model.close()


def is_refused(host, port):
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True


def test_sigterm_answers_open_requests_first(folder, tmp_path):
    with started(folder) as (client, process):
        host, port = client.rest.split(":")
        body = json.dumps(GOOD).encode()
        head = "POST /v1/models/model:predict HTTP/1.1\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(head.encode() + body[:5])
            slow = tensor_request(1, 10_000.0, "slow")
            answer = client.predictions.Predict.future(slow, timeout=60)
            eventually(lambda: psutil.Process(process.pid).cpu_percent(0.1) > 50)
            process.terminate()
            eventually(lambda: is_refused(host, int(port)))
            assert not answer.done()
            assert list(answer.result().outputs["y"].float_val) == [10_000.0]
            time.sleep(0.5)  # A server that did not wait for the body would have ended.
            connection.sendall(body[5:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert process.wait(timeout=60) == 0
    assert not any("Traceback" in line for line in process.lines), process.lines


def test_connections_do_not_leak(client, server):
    process = psutil.Process(server[1].pid)
    client.get("model")
    before = process.num_fds()
    for _ in range(100):
        client.get("model")
    eventually(lambda: process.num_fds() <= before + 2)

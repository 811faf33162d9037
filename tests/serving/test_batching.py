"""Requests of several clients in one batch."""

import dataclasses
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.config import BadInput, BatchingConfig, ModelConfig, read_batching
from serving.embedded import Settings, served
from tests.serving.client import client_of, eventually

# One batch at a time, which waits for ten seconds unless it is full.
CONFIG = BatchingConfig(
    max_batch_size=4,
    batch_timeout_micros=10_000_000,
    max_enqueued_batches=2,
    num_batch_threads=1,
)


class Batched(tf.Module):
    """Answers each row with itself and with the number of rows in its batch."""

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, name="x")])
    def __call__(self, x):
        return {"rows": tf.fill(tf.shape(x)[:1], tf.shape(x)[0]), "x": x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def slow(self, x):
        y = tf.ones([200, 200])
        for _ in tf.range(50):
            y = tf.matmul(y, y) / 200
        return {"x": x + 0 * y[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def total(self, x):
        return {"total": tf.reduce_sum(x)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    module = Batched()
    signatures = {
        "serving_default": module.__call__,
        "slow": module.slow,
        "total": module.total,
    }
    tf.saved_model.save(module, str(folder / "1"), signatures=signatures)
    return ModelConfig("model", folder)


@pytest.fixture
def serve(model):
    """Serves with some parameters changed; gives a client."""

    class Serve:
        def __init__(self, **changes):
            config = dataclasses.replace(CONFIG, **changes)
            self.context = served(
                Settings(
                    [model],
                    rest_port=0,
                    grpc_port=0,
                    batching=config,
                    metrics_path="/metrics",
                )
            )

        def __enter__(self):
            return client_of(self.context.__enter__())

        def __exit__(self, *error):
            self.context.__exit__(*error)

    return Serve


def ask(client, *rows, signature="serving_default"):
    request = {"signature_name": signature, "inputs": list(rows)}
    return client.predict("model", request)


def ask_at_once(client, *requests):
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda rows: ask(client, *rows), requests))


def test_requests_share_a_batch_and_get_their_own_rows(serve):
    with serve() as client:
        requests = [[[1.0]], [[2.0], [3.0]], [[4.0]]]
        answers = ask_at_once(client, *requests)
        for rows, answer in zip(requests, answers, strict=True):
            assert answer.json["outputs"] == {"x": rows, "rows": [4] * len(rows)}


def test_a_request_waits_no_longer_than_its_time(serve):
    with serve(batch_timeout_micros=1000) as client:
        assert ask(client, [1.0]).json["outputs"]["rows"] == [1]


def test_batches_are_padded_to_an_allowed_size(serve):
    with serve(batch_timeout_micros=1000, allowed_batch_sizes=(3, 4)) as client:
        assert ask(client, [1.0]).json["outputs"] == {"x": [[1.0]], "rows": [3]}


def test_a_request_that_is_too_large_is_refused(serve):
    with serve() as client:
        answer = ask(client, *[[1.0]] * 5)
        assert (answer.status, answer.error) == (
            400,
            "Task size 5 is larger than maximum input batch size 4",
        )


def test_a_large_request_is_split_if_allowed(serve):
    changes = {"enable_large_batch_splitting": True, "max_execution_batch_size": 2}
    with serve(batch_timeout_micros=1000, **changes) as client:
        rows = [[1.0], [2.0], [3.0]]
        answer = ask(client, *rows).json["outputs"]
        assert answer == {"x": rows, "rows": [2, 2, 1]}


def test_scalars_and_outputs_without_rows_are_refused(serve):
    with serve(batch_timeout_micros=1000) as client:
        scalar = client.predict("model", {"signature_name": "total", "inputs": 1.0})
        assert (scalar.status, scalar.error) == (
            400,
            "Batching Run() input tensors must have at least one dimension",
        )
        total = ask(client, 1.0, 2.0, signature="total")
        assert (total.status, total.error) == (
            400,
            "Batched output tensor has 0 dimensions",
        )


def test_rows_of_different_lengths_are_refused_or_padded(serve):
    short, long = [[1.0]] * 2, [[2.0, 3.0]] * 2
    with serve() as client:
        for answer in ask_at_once(client, short, long):
            assert answer.status == 400
            assert "different shapes and padding is turned off" in answer.error
    with serve(pad_variable_length_inputs=True) as client:
        answers = ask_at_once(client, short, long)
        rows = [answer.json["outputs"]["x"] for answer in answers]
        assert rows == [[[1.0, 1.0]] * 2, long]


def test_a_full_queue_refuses_more(serve):
    # The first rows wait for a batch of 4; three and then six more do not fit into 8.
    with serve(max_batch_size=4, max_enqueued_batches=1) as client:
        threads = [threading.Thread(target=ask, args=(client, [1.0])) for _ in range(3)]
        for thread in threads:
            thread.start()
        page = 'batching:input_batch_size_count{model_name="model"} 3'
        eventually(lambda: page in client.request("GET", "/metrics").body.decode())
        answer = ask(client, [1.0], [1.0])
        assert (answer.status, "is full" in answer.error) == (503, True)
        assert ask(client, [1.0]).status == 200  # The batch is full.
        for thread in threads:
            thread.join()


def test_the_rows_of_clients_that_have_left_are_not_computed(serve):
    with serve() as client:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "model"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([[1.0]]))
        with pytest.raises(grpc.RpcError):
            client.predictions.Predict(request, timeout=0.2)
        page = 'request_count{model_name="model",status="CANCELLED"} 1'
        eventually(lambda: page in client.request("GET", "/metrics").body.decode())
        answer = ask(client, [2.0], [3.0], [4.0])  # With the first it is a full batch.
        assert answer.json["outputs"]["rows"] == [3, 3, 3]


def test_batches_are_counted_under_the_names_of_the_server(serve):
    with serve(thread_pool_name="pool") as client:
        ask_at_once(client, *[[[1.0]]] * 4)
        page = client.request("GET", "/metrics").body.decode()
    values = dict(re.findall(r"^:tensorflow:serving:(\S+) ([\d.]+)$", page, re.M))
    session = "batching_session:"
    assert values[session + "wrapped_run_count{}"] == "1"
    assert values[session + 'queuing_latency_count{thread_pool_name="pool"}'] == "4"
    assert values['batching:processed_batch_size_sum{model_name="model"}'] == "4"
    assert values['batching:padding_size_sum{model_name="model"}'] == "0"
    assert values['request_count{model_name="model",status="OK"}'] == "4"
    labels = 'model_name="model",API="Predict",entrypoint="REST"'
    assert values[f"request_latency_count{{{labels}}}"] == "4"
    assert values[f'request_latency_bucket{{{labels},le="+Inf"}}'] == "4"


def test_no_request_is_forgotten(serve):
    # A batch is full before its time is over, and others wait while it runs.
    with serve(batch_timeout_micros=3000, max_enqueued_batches=100) as client:

        def ask_often(number):
            return [
                ask(client, float(number), signature="slow").json["outputs"]
                for _ in range(15)
            ]

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask_often, range(12)))
    assert answers == [[[float(number)]] * 15 for number in range(12)]


def test_a_file_of_the_server_is_read(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 5 } "
        'allowed_batch_sizes: 4 allowed_batch_sizes: 8 thread_pool_name { value: "p" } '
        "pad_variable_length_inputs: true enable_large_batch_splitting { value: false }"
    )
    assert read_batching(file) == BatchingConfig(
        max_batch_size=8,
        batch_timeout_micros=5,
        allowed_batch_sizes=(4, 8),
        thread_pool_name="p",
        pad_variable_length_inputs=True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 8", "fix the file"),
        ("nonsense { value: 8 }", "fix the file"),
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1"),
        (
            "allowed_batch_sizes: 4",
            "must increase and end with the largest batch, 1000",
        ),
        (
            "batch_timeout_micros { value: -1 }",
            "batch_timeout_micros must be at least 0",
        ),
        (
            "enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 2000 }",
            "max_execution_batch_size must not exceed max_batch_size",
        ),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, text, message):
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(
        BadInput, match=f"^{re.escape(str(file))}: .*{re.escape(message)}"
    ):
        read_batching(file)

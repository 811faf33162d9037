"""Versions: which are served, and how they come and go."""

import asyncio
import shutil
import threading

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from serving.config import BadInput, ModelConfig
from serving.embedded import Settings, served
from serving.models import Models
from tests.serving.client import client_of, eventually
from tests.serving.saved_models import (
    publish,
    retract,
    save,
    save_numbered,
    write_warm_up,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Models that answer 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("sources")
    return {number: save_numbered(number, folder / str(number)) for number in (1, 2, 3)}


@pytest.fixture
def model(sources, tmp_path):
    """The folder of a model with version 1."""
    publish(sources[1], tmp_path / "model/1")
    return tmp_path / "model"


class Counting(tf.Module):
    """Answers with the number of its calls."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def __call__(self, x):
        return {"y": 0.0 * x + self.calls.assign_add(1.0)}


def serve(*configs):
    return served(Settings(configs, rest_port=0, grpc_port=0, poll_seconds=0.05))


@pytest.fixture
def client(model):
    with serve(ModelConfig("model", model)) as ports:
        yield client_of(ports)


def answer(client, path="model"):
    """Returns the number of the version that answers."""
    reply = client.predict(path, {"instances": [0.0]})
    assert reply.status == 200, reply.body
    return reply.json["predictions"][0]


def test_a_new_version_replaces_the_old_one(client, model, sources):
    assert answer(client) == 1
    publish(sources[2], model / "2")
    eventually(lambda: client.states("model").get(2) == "AVAILABLE")
    assert answer(client) == 2
    eventually(lambda: client.states("model")[1] == "END")
    assert client.predict("model/versions/1", {"instances": [0.0]}).status == 404
    assert [*client.states("model")] == [2, 1]  # The newest first.


def test_without_the_newest_version_the_one_before_comes_back(client, model, sources):
    publish(sources[2], model / "2")
    eventually(lambda: answer(client) == 2)
    retract(model / "2")
    eventually(lambda: answer(client) == 1)


def test_a_removed_model_does_not_answer(client, model):
    retract(model / "1")
    eventually(lambda: client.states("model")[1] == "END")
    reply = client.predict("model", {"instances": [0.0]})
    assert (reply.status, reply.error) == (
        404,
        "Servable not found for request: Latest(model)",
    )


def break_file(name, content):
    def damage(version):
        (version / name).write_bytes(content)

    return damage


def remove_variables(version):
    shutil.rmtree(version / "variables")


BROKEN = {
    "no saved_model.pb": (lambda version: (version / "saved_model.pb").unlink(), 5),
    "junk": (break_file("saved_model.pb", b"\xff" * 100), 11),
    "no variables": (remove_variables, 5),
    "damaged variables": (break_file("variables/variables.index", b"x"), None),
    "a warm-up that fails": (lambda version: write_warm_up(version, {"z": [0.0]}), 3),
    "a damaged warm-up": (
        lambda version: (
            write_warm_up(version, {"x": [0.0]}),
            (version / "assets.extra/tf_serving_warmup_requests").write_bytes(
                b"x" * 40
            ),
        ),
        15,
    ),
}


@pytest.mark.parametrize(("damage", "code"), BROKEN.values(), ids=BROKEN)
def test_a_broken_version_leaves_the_old_one_serving(
    client, model, sources, tmp_path, damage, code
):
    shutil.copytree(sources[2], tmp_path / "damaged")
    damage(tmp_path / "damaged")
    publish(tmp_path / "damaged", model / "2")
    eventually(lambda: client.states("model").get(2) == "END")
    assert answer(client) == 1
    status = client.get("model/versions/2").json["model_version_status"][0]["status"]
    assert status["error_code"] != "OK"
    assert status["error_message"]
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "model"
    request.model_spec.version.value = 2
    reply = client.models.GetModelStatus(request).model_version_status[0]
    assert code in (None, reply.status.error_code)
    # The number stays broken. Another one is served.
    retract(model / "2")
    publish(sources[2], model / "2")
    publish(sources[3], model / "3")
    eventually(lambda: answer(client) == 3)
    assert client.states("model")[2] == "END"


def test_a_version_that_is_copied_slowly_is_not_served_in_part(client, model, sources):
    (model / "2").mkdir()
    shutil.copy(sources[2] / "saved_model.pb", model / "2")
    eventually(lambda: client.states("model").get(2) == "END")
    shutil.copytree(sources[2] / "variables", model / "2/variables")
    assert answer(client) == 1


def test_a_warm_up_is_answered_before_clients_are(client, model, sources, tmp_path):
    save(Counting(), tmp_path / "warm")
    write_warm_up(tmp_path / "warm", {"x": [0.5, 1.5]})
    publish(tmp_path / "warm", model / "2")
    eventually(lambda: client.states("model").get(2) == "AVAILABLE")
    assert answer(client) == 2  # The warm-up was the first call.


def test_folders_that_are_no_numbers_are_ignored(sources, tmp_path):
    for name in ("0003", "new", "2x", "-1", "1.5", str(2**63), "9" * 200):
        publish(sources[3], tmp_path / "model" / name)
    (tmp_path / "model/4").write_text("a file")
    with serve(ModelConfig("model", tmp_path / "model")) as ports:
        assert client_of(ports).states("model") == {3: "AVAILABLE"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [3]),
        ({"num_latest": 2}, [2, 3]),
        ({"num_latest": 0}, [1, 2, 3]),
        ({"versions": (1, 3)}, [1, 3]),
    ],
    ids=str,
)
def test_the_policy_chooses_the_versions(sources, tmp_path, config, expected):
    for number, source in sources.items():
        publish(source, tmp_path / "model" / str(number))
    labels = {"canary": 3, "gone": 7}
    with serve(
        ModelConfig("model", tmp_path / "model", labels=labels, **config)
    ) as ports:
        client = client_of(ports)
        assert sorted(client.states("model")) == expected
        assert answer(client) == 3
        assert answer(client, "model/labels/canary") == 3
        for number in expected:
            assert answer(client, f"model/versions/{number}") == number
        gone = client.predict("model/labels/gone", {"instances": [0.0]})
        assert (gone.status, gone.error) == (
            404,
            "Servable not found for request: Specific(model, 7)",
        )


def test_an_operation_that_is_not_registered_is_named(sources, tmp_path):
    publish(sources[1], tmp_path / "model/1")
    file = tmp_path / "model/1/saved_model.pb"
    file.write_bytes(file.read_bytes().replace(b"\x12\x04Mean", b"\x12\x04Moan"))
    with serve(ModelConfig("model", tmp_path / "model")) as ports:
        client = client_of(ports)
        assert client.states("model") == {1: "AVAILABLE"}
        reply = client.predict("model", {"instances": [0.0]})
        assert (reply.status, reply.error) == (
            404,
            "Op type not registered 'Moan' in binary",
        )


def reload_request(folder, *names):
    configs = "".join(
        f'config {{ name: "{name}" base_path: "{folder}/{name}" }}' for name in names
    )
    return text_format.Parse(
        f"config {{ model_config_list {{ {configs} }} }}",
        model_management_pb2.ReloadConfigRequest(),
    )


def test_a_client_can_change_the_models(client, model, sources, tmp_path):
    publish(sources[2], tmp_path / "other/2")
    request = reload_request(tmp_path, "other")
    assert client.models.HandleReloadConfigRequest(request).status.error_code == 0
    assert answer(client, "other") == 2
    assert client.states("model") == {1: "END"}
    assert client.predict("model", {"instances": [0.0]}).status == 404
    back = reload_request(tmp_path, "model")
    assert client.models.HandleReloadConfigRequest(back).status.error_code == 0
    assert answer(client) == 1


def test_a_change_that_fails_is_an_error(client, sources, tmp_path):
    (tmp_path / "model/2").mkdir()
    changes = (
        (reload_request(tmp_path, "model"), "NOT_FOUND", "model version 2: Could not"),
        (
            model_management_pb2.ReloadConfigRequest(),
            "INVALID_ARGUMENT",
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported",
        ),
    )
    for request, code, message in changes:
        with pytest.raises(grpc.RpcError, match=message) as error:
            client.models.HandleReloadConfigRequest(request)
        assert error.value.code() == grpc.StatusCode[code]
    publish(sources[3], tmp_path / "model/3")  # The broken version does not matter now.
    client.models.HandleReloadConfigRequest(changes[0][0])
    assert answer(client) == 3


def test_a_change_waits_for_the_models(client, sources, tmp_path):
    request = reload_request(tmp_path, "model", "late")
    with pytest.raises(grpc.RpcError) as error:
        client.models.HandleReloadConfigRequest(request, timeout=0.3)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    waiting = client.models.HandleReloadConfigRequest.future(request, timeout=60)
    publish(sources[3], tmp_path / "late/3")
    assert waiting.result().status.error_code == 0
    assert answer(client, "late") == 3
    assert answer(client) == 1


def test_a_load_goes_on_after_its_client_has_left(model):
    is_loading, may_load = threading.Event(), threading.Event()

    def load(path):
        is_loading.set()
        may_load.wait()

    async def run():
        models = Models(load)
        change = asyncio.create_task(models.configure([ModelConfig("model", model)]))
        await asyncio.to_thread(is_loading.wait)
        change.cancel()
        may_load.set()
        await models.refresh()
        return models.statuses("model")[0].state

    assert asyncio.run(run()) == "AVAILABLE"


@pytest.mark.parametrize("exists", [False, True])
def test_a_server_without_a_version_does_not_start(tmp_path, exists):
    if exists:
        (tmp_path / "model").mkdir()
    with pytest.raises(BadInput, match="No versions of servable model found under"):
        serve(ModelConfig("model", tmp_path / "model")).__enter__()


def test_a_server_with_a_broken_version_does_not_start(model):
    (model / "2").mkdir()
    with pytest.raises(BadInput, match="model version 2 cannot be served: Could not"):
        serve(ModelConfig("model", model)).__enter__()

"""Every recorded request gets the recorded answer."""

import base64
import json
import re

import pytest

from tests.serving.conftest import RECORDED, needs_recorded

FILE = RECORDED / "golden.jsonl"
MODELS = ("mlp", "zoo", "edge", "asset", "conv", "jit", "ktext", "pyf", "tftext")
RECORDS = [json.loads(line) for line in FILE.open()] if FILE.exists() else []


def content(record, name):
    if f"{name}_b64" in record:
        return base64.b64decode(record[f"{name}_b64"])
    return record.get(name, "").encode()


def parsed(text):
    """Returns JSON as text, since NaN does not equal itself; other text as it is."""
    try:
        value = json.loads(text.decode("utf-8", "surrogateescape"))
    except ValueError:
        return text
    return json.dumps(value, sort_keys=True)


def needs_its_model(record):
    """Returns a parameter that is skipped if the server does not have its model."""
    name = re.match("/v1/models/([^/:?]+)", record["path"])
    marks = [pytest.mark.models(name[1])] if name and name[1] in MODELS else []
    return pytest.param(record, marks=marks, id=record["path"])


@needs_recorded
@pytest.mark.parametrize("record", list(map(needs_its_model, RECORDS)))
def test_a_recorded_request_gets_the_recorded_answer(server, record):
    answer = server.request(
        record["method"], record["path"], content(record, "body"), record["headers"]
    )
    expected = content(record, "response")
    assert answer.status == record["status"], answer.body
    assert answer.headers["Content-Type"].split(";")[0] == record["content_type"]
    if b"{{node" not in expected:  # Such names differ between versions of TensorFlow.
        assert parsed(answer.body) == parsed(expected)

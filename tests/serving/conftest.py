"""The server under test: the embedded one, or the one at `--server-url`."""

import re
from urllib.parse import urlsplit

import pytest

from tests.serving.client import ROOT, Client, started

# Recorded answers and their models, in a folder beside that of the data sets.
RECORDED = (ROOT / "data").resolve().parent / "serving"
needs_recorded = pytest.mark.skipif(
    not (RECORDED / "models").is_dir(),
    reason="there are no recorded answers in a folder `serving` beside the data sets",
)
RELEASED = ROOT / "saved_models"


def released_names():
    """Returns the models that this repository releases."""
    return re.findall(r'name: "(\w+)"', (RELEASED / "models.config").read_text())


def models():
    """Returns the configuration of the recorded server, with the released models."""
    configs = [
        f'config {{ name: "{path.name}" base_path: "{path}" }}'
        for path in (
            *sorted((RECORDED / "models").glob("*")),
            *(RELEASED / name for name in released_names()),
        )
        if path.name not in ("mlp", "badwarm")
    ]
    if (RECORDED / "models/mlp").is_dir():
        configs.append(
            f"""config {{
              name: "mlp" base_path: "{RECORDED}/models/mlp"
              model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
              version_labels {{ key: "stable" value: 1 }}
              version_labels {{ key: "canary" value: 2 }}
            }}"""
        )
    return f"model_config_list {{ {' '.join(configs)} }}"


@pytest.fixture(scope="session")
def is_embedded(pytestconfig):
    """Whether the server under test is the embedded one."""
    return not pytestconfig.getoption("server_url")


@pytest.fixture(scope="session")
def any_server(pytestconfig, tmp_path_factory):
    if url := pytestconfig.getoption("server_url"):
        address = urlsplit(url)
        rpc = pytestconfig.getoption("server_grpc") or f"{address.hostname}:8500"
        yield Client(address.netloc, rpc)
    else:
        file = tmp_path_factory.mktemp("models") / "models.config"
        file.write_text(models())
        with started(file) as (client, _):
            yield client


@pytest.fixture
def server(any_server, request):
    """The server, if it has the models that the mark `models` names."""
    for mark in request.node.iter_markers("models"):
        for name in mark.args:
            if any_server.get(name).status == 404:
                pytest.skip(f"the server does not have {name}")
    return any_server

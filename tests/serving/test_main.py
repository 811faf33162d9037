import importlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from serving import config, engines
from serving.embedded import Settings, served
from tests.serving.client import ROOT, client_of, started
from tests.serving.saved_models import save_numbered

# Prints its arguments and the configuration that the third argument names.
SERVER = '#!/bin/sh\necho "$@"\n/bin/cat "${3#*=}"\n'
# Then runs until its input ends, or until SIGTERM, which gives a status of its own.
LASTING_SERVER = SERVER + "trap 'exit 7' TERM\necho ready\nread line\n"


@pytest.fixture
def temporary(tmp_path):
    """An empty folder for temporary files of `python -m serving`."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path, temporary):
    """Starts `python -m serving` on a machine that has only the named programs."""

    def start(*programs, models, flags=(), script=SERVER):
        (tmp_path / "bin").mkdir()
        for program in programs:
            path = tmp_path / "bin" / program
            path.write_text(script)
            path.chmod(0o755)
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "serving", "--models", models),
                *("--rest-port=9001", *flags),
            ],
            env={
                **os.environ,
                "PATH": str(tmp_path / "bin"),
                "TMPDIR": str(temporary),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "saved_models"
    folder.mkdir()
    (folder / "models.config").write_text('base_path: "/models/app"\n')
    (folder / "batching.config").touch()
    (folder / "monitoring.config").touch()
    return folder


INSTALLED = ("--engine", "tensorflow_model_server")
DOCKER = ("--engine", "docker")
# An installed server listens on all interfaces.
EVERYWHERE = (*INSTALLED, "--host", "0.0.0.0")


def sentence(errors):
    """Returns the error message, which TensorFlow's own messages may precede."""
    *_, last = errors.splitlines()
    assert "Traceback" not in errors
    return last


def test_an_installed_server_gets_local_paths(start, models, temporary):
    flags = [*EVERYWHERE, "--batching", "--monitoring", "--timeout-seconds=5"]
    server = start("tensorflow_model_server", models=models, flags=flags)
    output, _ = server.communicate()
    assert server.returncode == 0
    assert output.startswith("tensorflow_model_server --port=8500 --rest_api_port=9001")
    assert "--grpc_max_threads=64" in output
    assert "--rest_api_timeout_in_ms=5000" in output
    batching = f"--batching_parameters_file={models}/batching.config"
    assert f"--enable_batching=true {batching}" in output
    assert f"--monitoring_config_file={models}/monitoring.config" in output
    assert f'base_path: "{models}/app"' in output
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.7"])
def test_an_installed_server_is_not_started_for_one_interface(start, models, host):
    flags = [*INSTALLED, "--host", host]
    server = start("tensorflow_model_server", models=models, flags=flags)
    output, errors = server.communicate()
    assert (server.returncode, output) == (2, "")
    assert sentence(errors) == (
        "error: --engine tensorflow_model_server listens on all interfaces and has no "
        f"option to listen on {host} only; add --host 0.0.0.0 if others may reach it, "
        "or choose another engine"
    )


@pytest.mark.parametrize(
    ("stop", "status"), [(signal.SIGTERM, 7), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_reach_the_server_and_no_file_stays(
    start, models, temporary, stop, status
):
    server = start(
        "tensorflow_model_server",
        models=models,
        flags=EVERYWHERE,
        script=LASTING_SERVER,
    )
    with server:  # Closes the server's input at the end.
        assert "ready\n" in server.stdout
        assert not list(temporary.iterdir())
        server.send_signal(stop)
        assert server.wait(timeout=60) == status
    assert not list(temporary.iterdir())
    names = {path.name for path in models.iterdir()}
    assert names == {"models.config", "batching.config", "monitoring.config"}


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ([], "127.0.0.1"),
        (["--host", "192.0.2.7"], "192.0.2.7"),
        (["--host", "::1"], "[::1]"),
        (["--host", "0.0.0.0"], "0.0.0.0"),
    ],
)
def test_docker_listens_on_this_machine_by_default(
    start, models, temporary, flags, address
):
    server = start("docker", models=models, flags=[*DOCKER, *flags])
    output, _ = server.communicate()
    assert server.returncode == 0
    assert f"run --rm -v {models}:/models:ro -p {address}:9001:8501" in output
    assert f" -p {address}:8500:8500 tensorflow/serving:2.20.0 " in output
    assert "--model_config_file=/models/models.config --grpc_max_threads=64" in output
    assert "--rest_api_timeout_in_ms=60000" in output
    assert "batching" not in output
    assert not list(temporary.iterdir())


def test_requests_are_batched_on_demand(start, models, tmp_path):
    file = tmp_path / "my.config"
    file.touch()
    server = start("docker", models=models, flags=[*DOCKER, "--batching", file])
    output, _ = server.communicate()
    assert f"-v {file}:/config/my.config:ro" in output
    batching = "--batching_parameters_file=/config/my.config"
    assert f"--enable_batching=true {batching}" in output


@pytest.mark.parametrize("flag", ["batching", "monitoring"])
@pytest.mark.parametrize("engine", ["docker", "embedded"])
def test_a_folder_without_a_file_is_named(start, models, flag, engine):
    (models / f"{flag}.config").unlink()
    (models / "models.config").write_text(
        f'model_config_list {{ config {{ name: "a" base_path: "{models}" }} }}'
    )
    flags = ["--engine", engine, f"--{flag}"]
    server = start("docker", models=models, flags=flags)
    _, errors = server.communicate()
    assert server.returncode == 2
    assert sentence(errors).startswith(f"error: {models}/{flag}.config: No such file")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host", "localhost"], "--host: invalid ip_address value: 'localhost'"),
        (["--rest-port", "70000"], "--rest-port: invalid port value: '70000'"),
        (["--poll-seconds", "0"], "--poll-seconds: invalid positive value: '0'"),
        (["--timeout-seconds", "nan"], "--timeout-seconds: invalid positive value"),
        (["--max-requests", "0"], "--max-requests: invalid count value: '0'"),
        (["--engine", "other"], "--engine: invalid choice: 'other'"),
    ],
)
def test_a_wrong_flag_is_refused(start, models, flags, message):
    server = start(models=models, flags=flags)
    _, errors = server.communicate()
    assert server.returncode == 2
    assert message in errors


@pytest.mark.parametrize("engine", ["docker", "tensorflow_model_server"])
def test_without_a_server_it_says_what_to_install(start, models, engine):
    server = start(models=models, flags=["--engine", engine])
    _, errors = server.communicate()
    assert server.returncode == 2
    assert sentence(errors).startswith(f"error: --engine {engine}: ")
    assert sentence(errors).endswith("install it or leave out --engine")


@pytest.fixture
def versions(tmp_path):
    """Returns a folder with two models and no models.config."""
    for version in ("a/1", "a/2", "b/1"):
        path = tmp_path / "versions" / version / "saved_model.pb"
        path.parent.mkdir(parents=True)
        path.touch()
    return tmp_path / "versions"


def test_an_installed_server_gets_a_folder_of_models(start, versions):
    server = start("tensorflow_model_server", models=versions, flags=EVERYWHERE)
    output, _ = server.communicate()
    assert server.returncode == 0
    paths = re.findall(r'name: "(.+)"\s+base_path: "(.+)"', output)
    assert paths == [(name, f"{versions}/{name}") for name in "ab"]


def test_docker_gets_a_folder_of_models(start, versions):
    server = start("docker", models=versions, flags=DOCKER)
    output, _ = server.communicate()
    assert server.returncode == 0
    for name in "ab":
        assert f"-v {versions}/{name}:/models/{name}:ro" in output
        assert f'base_path: "/models/{name}"' in output
    assert "--entrypoint sh tensorflow/serving:2.20.0 -c" in output
    assert output.index(" sh --grpc_max_threads=64") > output.index("exec ")


def test_one_version_is_served_alone(start, versions):
    server = start("docker", models=versions / "a/1", flags=DOCKER)
    output, _ = server.communicate()
    assert f"-v {versions}/a:/models/a:ro" in output
    assert re.search(r"specific \{\s+versions: 1\s", output)


def test_the_container_writes_its_configuration(tmp_path):
    """The script runs outside a container, in a folder of its own."""
    program = tmp_path / "tensorflow_model_server"
    program.write_text(
        '#!/bin/sh\necho "$@"\ncat ' + str(tmp_path / "models.config") + "\n"
    )
    program.chmod(0o755)
    script = engines.CONTAINER_SCRIPT.replace("/tmp/", f"{tmp_path}/")
    models = [config.ModelConfig("a", tmp_path / "a", 0, labels={"stable": 3})]
    text = config.write_models(models)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "MODELS_CONFIG": text}
    command = ["sh", "-c", script, "sh", "--one", "two words"]
    output = subprocess.check_output(command, env=environment, text=True)
    flags, found = output.split("\n", 1)
    assert flags == (
        f"--port=8500 --rest_api_port=8501 --model_config_file={tmp_path}/models.config"
        " --one two words"
    )
    (tmp_path / "models.config").write_text(found)
    assert config.read_models(tmp_path / "models.config") == models


def test_a_folder_without_models_is_named(start, tmp_path):
    server = start("docker", models=tmp_path, flags=DOCKER)
    _, errors = server.communicate()
    assert server.returncode == 2
    assert f"--models {tmp_path} holds no models.config" in sentence(errors)


def test_a_server_that_cannot_run_is_named(start, models):
    server = start("docker", models=models, flags=DOCKER, script="#!/nowhere\n")
    _, errors = server.communicate()
    assert server.returncode == 2
    assert sentence(errors).startswith(
        "error: docker: No such file or directory; check"
    )


# The embedded server.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "models.config: "),
        ("", "models.config: model_config_list holds no config"),
        ('model_config_list { config { name: "a" } }', "needs a name and a base_path"),
        (
            'model_config_list { config { name: "a" base_path: "b" } '
            'config { name: "a" base_path: "c" } }',
            "two models have the same name",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/models/a" } }',
            "No versions of servable a found under base path",
        ),
    ],
)
def test_models_that_cannot_be_served_are_named(start, models, text, message):
    (models / "models.config").write_text(text)
    server = start(models=models, flags=["--grpc-port=0", "--rest-port=0"])
    output, errors = server.communicate()
    assert (server.returncode, output) == (2, "")
    assert sentence(errors).startswith("error: ")
    assert message in sentence(errors)


def test_a_path_without_models_is_named(start, tmp_path):
    server = start(models=tmp_path / "no")
    _, errors = server.communicate()
    assert server.returncode == 2
    assert f"error: --models {tmp_path}/no does not exist; name" in sentence(errors)


@pytest.fixture
def numbers(tmp_path):
    """The folder of a small model."""
    return save_numbered(1, tmp_path / "numbers/1").parent


@pytest.mark.parametrize("flag", ["--rest-port", "--grpc-port"])
def test_a_port_that_is_taken_is_named(start, flag, numbers):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--rest-port=0", "--grpc-port=0", f"{flag}={port}"]
        server = start(models=numbers, flags=flags)
        _, errors = server.communicate()
    assert server.returncode == 2
    assert f"error: {flag} {port}: 127.0.0.1:{port} is in use" in sentence(errors)


def test_a_folder_of_models_a_model_and_a_version_are_served(tmp_path):
    for version in ("one/1", "two/1", "two/2"):
        save_numbered(1, tmp_path / version)
    for where, names in (
        (tmp_path, {"one": [1], "two": [2]}),
        (tmp_path / "two", {"two": [2]}),
        (tmp_path / "two/1", {"two": [1]}),
    ):
        found = config.find_models(where)
        assert {model.name: model.versions for model in found}.keys() == names.keys()
        with served(Settings(found, rest_port=0, grpc_port=0)) as ports:
            client = client_of(ports)
            for name, versions in names.items():
                assert [*client.states(name)] == versions


def test_metrics_are_given_where_the_file_says(tmp_path, numbers):
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/m" }')
    with started(numbers, "--monitoring", file) as (client, _):
        assert client.request("GET", "/m").headers["Content-Type"] == "text/plain"
        assert client.request("GET", "/monitoring/prometheus/metrics").status == 404
    file.write_text("prometheus_config { enable: false }")
    assert config.read_monitoring(file) is None


def model_limits():
    """Returns the limits of each application."""
    names = [path.parent.name for path in (ROOT / "apps").glob("*/signatures.py")]
    return {
        name: importlib.import_module(f"apps.{name}.signatures").LIMITS
        for name in names
    }


def test_the_limits_are_documented():
    readme = (ROOT / "saved_models/README.md").read_text()
    _, table = readme.split("\n## Limits\n")
    heading, _, *rows = re.findall(r"^\|(.*)\|$", table.split("\n\n- ")[0], re.M)
    names = re.findall(r"`(\w+)`", heading)
    documented = {}
    for row in rows:
        model, *cells = (cell.strip().replace(",", "") for cell in row.split("|"))
        pairs = zip(names, cells, strict=True)
        documented[model] = {name: int(cell) for name, cell in pairs if cell}
    assert documented == model_limits()


def test_the_batches_fit_the_limits_of_the_signatures():
    batching = config.read_batching(ROOT / "saved_models/batching.config")
    max_inputs = [limits["max_inputs"] for limits in model_limits().values()]
    assert batching.max_batch_size == max(max_inputs)
    assert batching.enable_large_batch_splitting
    # A larger batch would be refused as a whole.
    assert 1 < batching.max_execution_batch_size <= min(max_inputs)
    assert 0 < batching.batch_timeout_micros <= 10_000
    assert not batching.pad_variable_length_inputs


def help_written_to(stdout):
    return subprocess.run(
        [sys.executable, "-m", "serving", "--help"],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_closed_pipe_ends_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = help_written_to(pipe)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_refused():
    with open("/dev/full", "w") as full:
        done = help_written_to(full)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: standard output: No space left on device; check")

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

ROOT = Path(__file__).parents[2]

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
            },
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
    return folder


# An installed server listens on all interfaces.
EVERYWHERE = ("--host", "0.0.0.0")


def test_an_installed_server_comes_first_and_gets_local_paths(start, models, temporary):
    programs = "tensorflow_model_server", "docker"
    server = start(*programs, models=models, flags=[*EVERYWHERE, "--batching"])
    output, _ = server.communicate()
    assert server.returncode == 0
    assert output.startswith("tensorflow_model_server --port=8500 --rest_api_port=9001")
    assert "--grpc_max_threads=64 --rest_api_timeout_in_ms=60000" in output
    batching = f"--batching_parameters_file={models}/batching.config"
    assert f"--enable_batching=true {batching}" in output
    assert f'base_path: "{models}/app"' in output
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.7"])
def test_an_installed_server_is_not_started_for_one_interface(start, models, host):
    server = start("tensorflow_model_server", models=models, flags=["--host", host])
    output, errors = server.communicate()
    assert (server.returncode, output) == (2, "")
    assert errors == (
        "error: tensorflow_model_server listens on all interfaces and has no option to "
        f"listen on {host} only; add --host 0.0.0.0 if others may reach it, or install "
        "docker\n"
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
    assert names == {"models.config", "batching.config"}


@pytest.mark.parametrize(
    ("flags", "address"),
    [
        ([], "127.0.0.1"),
        (["--host", "192.0.2.7"], "192.0.2.7"),
        (["--host", "::1"], "[::1]"),
        (EVERYWHERE, "0.0.0.0"),
    ],
)
def test_docker_listens_on_this_machine_unless_told(
    start, models, temporary, flags, address
):
    others = [] if flags is EVERYWHERE else ["tensorflow_model_server"]
    server = start("docker", *others, models=models, flags=flags)
    output, _ = server.communicate()
    assert server.returncode == 0
    assert f"run --rm -v {models}:/models:ro -p {address}:9001:8501" in output
    assert f" -p {address}:8500:8500 tensorflow/serving" in output
    assert "--model_config_file=/models/models.config --grpc_max_threads=64" in output
    assert "batching" not in output
    assert not list(temporary.iterdir())


def test_requests_are_batched_on_demand(start, models):
    server = start("docker", models=models, flags=["--batching"])
    output, _ = server.communicate()
    batching = "--batching_parameters_file=/models/batching.config"
    assert f"--enable_batching=true {batching}" in output


def test_a_folder_without_batching_is_named(start, models):
    (models / "batching.config").unlink()
    server = start("docker", models=models, flags=["--batching"])
    _, errors = server.communicate()
    assert server.returncode == 2
    assert errors.startswith(f"error: --models {models} holds no batching.config; ")


def test_a_host_must_be_an_address(start, models):
    server = start("docker", models=models, flags=["--host", "localhost"])
    _, errors = server.communicate()
    assert server.returncode == 2
    assert "argument --host: invalid ip_address value: 'localhost'" in errors


def batching_parameters():
    """Returns the message that the server reads from `batching.config`.

    `tensorflow-serving-api` does not have it.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    types = {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    }
    for number, (name, type_name) in enumerate(types.items(), start=1):
        message.field.add(
            name=name,
            number=number,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=f".google.protobuf.{type_name}",
        )
    message.field.add(
        name="pad_variable_length_inputs",
        number=len(types) + 1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("BatchingParameters")
    )()


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
    text = (ROOT / "saved_models/batching.config").read_text()
    batching = text_format.Parse(text, batching_parameters())
    max_inputs = [limits["max_inputs"] for limits in model_limits().values()]
    assert batching.max_batch_size.value == max(max_inputs)
    assert batching.enable_large_batch_splitting.value
    # A larger batch would be refused as a whole.
    assert 1 < batching.max_execution_batch_size.value <= min(max_inputs)
    assert 0 < batching.batch_timeout_micros.value <= 10_000
    assert batching.max_enqueued_batches.value > 0
    assert batching.num_batch_threads.value > 0
    assert not batching.pad_variable_length_inputs


def test_without_a_server_it_says_what_to_install(start, models):
    server = start(models=models)
    _, errors = server.communicate()
    assert server.returncode == 2
    assert errors.startswith("error: neither tensorflow_model_server nor docker")


def test_a_folder_without_models_is_named(start, tmp_path):
    server = start("docker", models=tmp_path)
    _, errors = server.communicate()
    assert server.returncode == 2
    assert f"--models {tmp_path} holds no models.config" in errors


def test_a_server_that_cannot_run_is_named(start, models):
    server = start("docker", models=models, script="#!/nowhere\n")
    _, errors = server.communicate()
    assert server.returncode == 2
    assert errors.startswith("error: docker: No such file or directory; check")
    assert "Traceback" not in errors


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

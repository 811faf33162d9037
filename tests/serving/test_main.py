import os
import signal
import subprocess
import sys

import pytest

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

    def start(*programs, models, script=SERVER):
        (tmp_path / "bin").mkdir()
        for program in programs:
            path = tmp_path / "bin" / program
            path.write_text(script)
            path.chmod(0o755)
        return subprocess.Popen(
            [sys.executable, "-m", "serving", "--models", models, "--rest-port=9001"],
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
    return folder


def test_an_installed_server_comes_first_and_gets_local_paths(start, models, temporary):
    server = start("tensorflow_model_server", "docker", models=models)
    output, _ = server.communicate()
    assert server.returncode == 0
    assert "--port=8500 --rest_api_port=9001" in output
    assert f'base_path: "{models}/app"' in output
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("stop", "status"), [(signal.SIGTERM, 7), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_signals_reach_the_server_and_no_file_stays(
    start, models, temporary, stop, status
):
    server = start("tensorflow_model_server", models=models, script=LASTING_SERVER)
    with server:  # Closes the server's input at the end.
        assert "ready\n" in server.stdout
        assert not list(temporary.iterdir())
        server.send_signal(stop)
        assert server.wait(timeout=60) == status
    assert not list(temporary.iterdir())
    assert [path.name for path in models.iterdir()] == ["models.config"]


def test_docker_is_the_alternative(start, models, temporary):
    server = start("docker", models=models)
    output, _ = server.communicate()
    assert server.returncode == 0
    assert f"run --rm -v {models}:/models:ro -p 9001:8501" in output
    assert "--model_config_file=/models/models.config" in output
    assert not list(temporary.iterdir())


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

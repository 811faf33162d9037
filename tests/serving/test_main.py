import os
import subprocess
import sys

import pytest


@pytest.fixture
def start(tmp_path):
    """Runs `python -m serving` where only the named programs are installed."""

    def run(*programs, models):
        for program in programs:
            path = tmp_path / "bin" / program
            path.parent.mkdir(exist_ok=True)
            path.write_text('#!/bin/sh\necho "$@"\n/bin/cat "${3#*=}"\nexit 0\n')
            path.chmod(0o755)
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "serving",
                "--models",
                models,
                "--rest-port",
                "9001",
            ],
            env={**os.environ, "PATH": str(tmp_path / "bin")},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "saved_models"
    folder.mkdir()
    (folder / "models.config").write_text('base_path: "/models/app"\n')
    return folder


def test_the_installed_server_is_preferred_and_gets_local_paths(start, models):
    done = start("tensorflow_model_server", "docker", models=models)
    assert done.returncode == 0
    assert "--port=8500 --rest_api_port=9001" in done.stdout
    assert f'base_path: "{models}/app"' in done.stdout


def test_docker_serves_otherwise(start, models):
    done = start("docker", models=models)
    assert done.returncode == 0
    assert f"run --rm -v {models}:/models:ro -p 9001:8501" in done.stdout
    assert "--model_config_file=/models/models.config" in done.stdout


def test_without_a_server_it_says_what_to_install(start, models):
    done = start(models=models)
    assert done.returncode == 2
    assert done.stderr.startswith("error: neither tensorflow_model_server nor docker")


def test_a_folder_without_models_is_named(start, tmp_path):
    done = start("docker", models=tmp_path)
    assert done.returncode == 2
    assert f"--models {tmp_path} holds no models.config" in done.stderr

"""The files of `deploy/` are valid and fit the released models and each other."""

import copy
from pathlib import Path

import compose_spec
import kubernetes_validate
import pytest
import yaml

from serving import config, engines

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RELEASED = ROOT / "saved_models"
MANIFESTS = [
    manifest
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]


def manifest(kind):
    (found,) = [each for each in MANIFESTS if each["kind"] == kind]
    return found


def container():
    (found,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    return found


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serving"]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: each["kind"])
def test_a_manifest_is_valid(manifest):
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_manifest_with_a_wrong_name_is_not_valid():
    wrong = copy.deepcopy(manifest("Service"))
    wrong["spec"]["prots"] = wrong["spec"].pop("ports")
    version = kubernetes_validate.latest_version()
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_the_compose_file_is_valid():
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    compose_spec.ComposeSpecification.model_validate(content)
    content["services"]["serving"]["ports"] = 8501
    with pytest.raises(ValueError, match="ports"):
        compose_spec.ComposeSpecification.model_validate(content)


def test_all_start_the_same_image():
    assert compose()["image"] == container()["image"] == engines.IMAGE


@pytest.mark.parametrize("arguments", [compose()["command"], container()["args"]])
def test_all_have_the_flags_of_the_engines(arguments, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: program)
    files = RELEASED / "batching.config", RELEASED / "monitoring.config"
    options = engines.Options(
        RELEASED / "models.config", config.LOOPBACK, 8501, 8500, *files, 1.0, 60.0
    )
    command = engines.docker(options)
    flags = {flag.split("=")[0] for flag in command if flag.startswith("--")} - {"--rm"}
    given = {flag.split("=")[0] for flag in arguments}
    assert given - {"--model_config_file_poll_wait_seconds"} == flags
    values = {flag for flag in command if "config" not in flag and "file" not in flag}
    assert {flag for flag in values if flag.startswith("--")} - {"--rm"} <= set(
        arguments
    )


def test_the_files_of_kubernetes_are_those_of_the_released_models():
    for name, text in manifest("ConfigMap")["data"].items():
        assert text == (RELEASED / name).read_text(), name
        assert f"/config/{name}" in " ".join(container()["args"])


def test_probes_ask_a_model_that_is_served():
    names = {model.name for model in config.read_models(RELEASED / "models.config")}
    for probe in ("readinessProbe", "livenessProbe"):
        path = container()[probe]["httpGet"]["path"]
        assert path.split("/")[3] in names


def test_everything_selects_the_pods():
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifest("Deployment")["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()
    ports = {port["name"] for port in container()["ports"]}
    for port in manifest("Service")["spec"]["ports"]:
        assert port["targetPort"] in ports


def test_requests_end_before_a_pod_is_killed():
    (timeout,) = [
        int(flag.split("=")[1]) / 1000
        for flag in container()["args"]
        if flag.startswith("--rest_api_timeout_in_ms")
    ]
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    (_, sleep) = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > int(sleep) + timeout
    assert int(compose()["stop_grace_period"].removesuffix("s")) > timeout


def test_the_canary_has_a_version_for_each_label():
    (model,) = config.read_models(DEPLOY / "canary.config")
    assert model.labels == {"stable": 1, "canary": 2}
    assert set(model.labels.values()) == set(model.versions)

"""The tree keeps its promises: same files everywhere, a test for everything."""

import re
from pathlib import Path

import pytest

import layers

ROOT = Path(__file__).parents[1]
APPS = sorted(path.parent for path in (ROOT / "apps").glob("*/__main__.py"))
APP_FILES = {
    "README.md",
    "__init__.py",
    "__main__.py",
    "config.py",
    "data.py",
    "model.py",
    "train.py",
    "evaluate.py",
    "predict.py",
    "export.py",
    "edge.py",
}


def tracked(pattern):
    found = ROOT.glob(pattern)
    return sorted(
        path
        for path in found
        if not {".venv", "runs", "data"} & set(path.relative_to(ROOT).parts[:1])
    )


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_every_app_has_the_same_files(app):
    assert {path.name for path in app.iterdir()} >= APP_FILES
    assert list((ROOT / "tests/apps" / app.name).glob("test_*.py"))


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_every_app_stands_in_the_readme_and_in_the_servers_configuration(app):
    assert f"(apps/{app.name}/README.md)" in (ROOT / "README.md").read_text()
    config = (ROOT / "saved_models/models.config").read_text()
    assert f'"/models/{app.name}"' in config


@pytest.mark.parametrize("name", layers.__all__)
def test_every_layer_is_tested_against_the_contract(name):
    module = getattr(layers, name).__module__.removeprefix("layers.")
    test = (ROOT / f"tests/layers/test_{module}.py").read_text()
    assert f"check_layer({name}," in re.sub(r"\(\s+", "(", test)


@pytest.mark.parametrize(
    "module",
    sorted((ROOT / "apps/common").glob("[a-z]*.py")),
    ids=lambda path: path.stem,
)
def test_every_common_module_is_tested(module):
    assert (ROOT / f"tests/apps/common/test_{module.stem}.py").exists()


@pytest.mark.parametrize(
    "readme", tracked("**/*.md"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(readme):
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", readme.read_text()):
        assert (readme.parent / link).exists(), link

"""The tree keeps its rules: the same files and names, and a test for everything."""

import ast
import dataclasses
import importlib
import re
import tomllib
import typing
from pathlib import Path

import pytest

import layers
from apps.common import ranges

ROOT = Path(__file__).parents[1]
APPS = sorted(path.parent for path in (ROOT / "apps").glob("*/__main__.py"))
APP_FILES = {
    "README.md",
    "__init__.py",
    "__main__.py",
    "config.py",
    "embedded.py",
    "data.py",
    "model.py",
    "signatures.py",
    "train.py",
    "evaluate.py",
    "predict.py",
    "export.py",
    "edge.py",
}
each_app = pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)


def files(pattern):
    """Returns the files of this pattern that belong to the project."""
    others = {".venv", "runs", "data", "build"}
    found = (path.relative_to(ROOT) for path in ROOT.glob(pattern))
    return sorted(path for path in found if path.parts[0] not in others)


# Applications.


@each_app
def test_every_app_has_the_same_files(app):
    assert {path.name for path in app.iterdir()} >= APP_FILES


@each_app
def test_every_app_passes_the_contract(app):
    folder = ROOT / "tests/apps" / app.name
    assert re.search(
        r"class Test\w*\(\w*AppContract\):", (folder / "test_contract.py").read_text()
    )
    assert f'"{app.name}"' in (folder / "conftest.py").read_text()


@each_app
def test_every_app_is_listed_where_users_look(app):
    assert f"(apps/{app.name}/README.md)" in (ROOT / "README.md").read_text()
    config = (ROOT / "saved_models/models.config").read_text()
    assert f'name: "{app.name}"' in config
    assert f'"/models/{app.name}"' in config
    readme = (ROOT / "saved_models/README.md").read_text()
    assert f"[{app.name}]({app.name}/card.md)" in readme


def test_everything_that_is_served_is_an_app():
    names = {app.name for app in APPS}
    config = (ROOT / "saved_models/models.config").read_text()
    folders = {path.name for path in (ROOT / "saved_models").iterdir() if path.is_dir()}
    assert set(re.findall(r'name: "(\w+)"', config)) == folders
    # A second model of an application has its name with something behind it.
    apps = {path: [name for name in names if path.startswith(name)] for path in folders}
    assert all(len(found) == 1 for found in apps.values())
    assert {name for found in apps.values() for name in found} == names


@each_app
def test_every_app_stands_in_every_import_rule_that_lists_apps(app):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = f"apps.{app.name}"
    others = {f"apps.{other.name}" for other in APPS} - {package}
    for contract in project["tool"]["importlinter"]["contracts"]:
        for modules in contract.values():
            if others & set(modules):
                assert package in modules, contract["name"]


@each_app
def test_every_number_of_a_config_has_a_range(app):
    config_class = importlib.import_module(f"apps.{app.name}.config").Config
    hints = typing.get_type_hints(config_class, include_extras=True)
    plain = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        assert count_numbers(plain[field.name]) == len(
            list(ranges.ranges(hints[field.name]))
        ), field.name


def count_numbers(hint):
    """Returns how often `int` and `float` occur in a type."""
    if hint in (int, float):
        return 1
    return sum(map(count_numbers, typing.get_args(hint)))


@each_app
def test_every_setting_has_a_description(app):
    tree = ast.parse((app / "config.py").read_text())
    (config,) = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "Config"
    ]
    for node, following in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(following, ast.Expr), node.target.id
            assert isinstance(following.value.value, str), node.target.id


@each_app
def test_builders_of_models_have_no_defaults_of_their_own(app):
    """The builder is `build_model`, or the constructor of a `keras.Model`."""
    tree = ast.parse((app / "model.py").read_text())
    models = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and "keras.Model" in map(ast.unparse, node.bases)
    ]
    builders = [
        node
        for block in (tree, *models)
        for node in block.body
        if isinstance(node, ast.FunctionDef)
        and node.name in ("build_model", "__init__")
    ]
    assert builders
    for builder in builders:
        positional = [argument.arg for argument in builder.args.args]
        assert positional in ([], ["self"])
        assert not [each for each in builder.args.kw_defaults if each is not None]


@each_app
def test_the_edge_program_imports_nothing_of_ours(app):
    tree = ast.parse((app / "edge.py").read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {"apps", "layers", "serving", "tensorflow", "keras"} & imported


# Layers and common functions.


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


# Documents.


@pytest.mark.parametrize("readme", files("**/*.md"), ids=str)
def test_links_lead_somewhere(readme):
    text = (ROOT / readme).read_text()
    for link in re.findall(r"\]\((?!http|#|mailto:)([^)#]+)", text):
        assert (ROOT / readme.parent / link).exists(), link

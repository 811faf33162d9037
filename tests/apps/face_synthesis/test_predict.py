from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.common import runs
from apps.common.errors import BadInput
from apps.face_synthesis import attributes as attributes_module
from apps.face_synthesis import predict as module
from apps.face_synthesis.config import Config
from apps.face_synthesis.data import load_split
from apps.face_synthesis.predict import between, find_direction, predict, walk
from tests.apps.app_contract import run_app, succeed
from tests.apps.face_synthesis.test_signatures import make
from tests.apps.face_synthesis.tiny import small, write

OPTIONS = {
    "attributes": (),
    "truncation": 1.0,
    "interpolate": 0,
    "direction": None,
    "data": None,
    "image_paths": (),
    "folder": None,
    "animation": None,
}


@pytest.fixture
def draw(run, tmp_path, monkeypatch):
    """Draws faces of the run; returns the answers and the figure."""
    monkeypatch.setattr(module, "NUM_AVERAGED", 40)

    def draw(*seeds, **options):
        figure = tmp_path / "figure.png"
        options = {**OPTIONS, **options}
        found = predict(seeds, str(run), *options.values(), figure)
        return found, np.asarray(Image.open(figure))

    return draw


def face(grid, row, column):
    """Returns a face of a figure in its own size; it is enlarged eightfold."""
    return grid[128 * row : 128 * (row + 1) : 8, 128 * column : 128 * (column + 1) : 8]


def test_a_grid_has_the_faces_of_the_seeds(draw, capsys):
    found, grid = draw(*range(10))
    assert grid.shape == (2 * 128, 8 * 128, 3)
    np.testing.assert_array_equal(face(grid, 1, 1), found["pixels"][9])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines[:10]] == list(map(str, range(10)))


def test_without_seeds_64_faces_are_drawn(draw):
    found, grid = draw()
    assert len(found["pixels"]) == 64
    assert grid.shape == (1024, 1024, 3)


def test_wanted_attributes_are_drawn(draw, capsys):
    plain, _ = draw(1, 2)
    found, _ = draw(1, 2, attributes=("hair=red", "smiling=no"))
    lines = capsys.readouterr().out.splitlines()
    assert all("smiling=no" in line and "hair=red" in line for line in lines[3:5])
    assert (found["latents"] != plain["latents"]).any()


def test_truncation_moves_towards_the_mean(draw):
    plain, _ = draw(1, 2, 3)
    none, _ = draw(1, 2, 3, truncation=0.0)
    half, _ = draw(1, 2, 3, truncation=0.5)
    np.testing.assert_allclose(none["latents"].std(axis=0), 0, atol=1e-5)
    expected = (plain["latents"] + none["latents"]) / 2
    np.testing.assert_allclose(half["latents"], expected, atol=1e-5)


def test_faces_are_drawn_between_seeds(draw):
    found, grid = draw(5, 6, 7, interpolate=3)
    assert grid.shape == (2 * 128, 5 * 128, 3)
    for row, column, i in ((0, 0, 0), (0, 4, 1), (1, 0, 1), (1, 4, 2)):
        np.testing.assert_array_equal(face(grid, row, column), found["pixels"][i])


def test_points_lie_on_lines():
    latents = np.array([[0.0, 0], [4, 8], [0, 8]])
    expected = [[0, 0], [2, 4], [4, 8], [2, 8], [0, 8]]
    np.testing.assert_allclose(between(latents, 2), expected)


def test_attributes_are_added_by_latent_arithmetic(draw, run):
    found, grid = draw(1, 2, direction="hair=red")
    assert grid.shape == (2 * 128, 5 * 128, 3)
    for row in range(2):
        np.testing.assert_array_equal(face(grid, row, 2), found["pixels"][row])
    step = find_direction(str(run), "hair=red")
    answers = module.in_batches(module.load_model(str(run)), range(40))
    is_red = answers["attributes"][:, 2] == b"red"
    latents = answers["latents"]
    expected = latents[is_red].mean(axis=0) - latents[~is_red].mean(axis=0)
    np.testing.assert_allclose(step, expected, atol=1e-5)
    np.testing.assert_allclose(
        walk(latents[0], step)[[0, 4]].mean(0), latents[0], atol=1e-5
    )


def test_faces_and_animations_are_written(draw, tmp_path):
    found, _ = draw(1, 2, folder=tmp_path / "faces", animation=tmp_path / "a.gif")
    written = np.asarray(Image.open(tmp_path / "faces/2.png"))
    np.testing.assert_array_equal(written, found["pixels"][1])
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames > module.FRAMES


def test_wrong_wishes_are_refused(draw, run, tmp_path):
    for options, says in (
        ({"attributes": ("hair=green",)}, "no attribute 'hair=green'; did you mean"),
        (
            {"direction": "hair=gren"},
            "--direction hair=gren is no known attribute; did",
        ),
        ({"animation": tmp_path / "a.mp4"}, "must end in .gif or .webp"),
        ({"image_paths": (tmp_path,)}, "--images takes the place of seeds"),
        ({"direction": "hair=red", "interpolate": 2}, "--direction or --interpolate"),
    ):
        with pytest.raises(BadInput, match=says):
            draw(1, **options)
    with pytest.raises(BadInput, match="no encoder for --images; train one with"):
        draw(image_paths=(tmp_path / "a.png",))


def test_a_conditional_gan_needs_no_data_for_a_direction(run, monkeypatch):
    def refuse(*_):
        raise AssertionError("reads the data")

    monkeypatch.setattr(module, "load_split", refuse)
    monkeypatch.setattr(module, "NUM_AVERAGED", 40)
    assert find_direction(str(run), "hair=red").shape == (12,)


# Models without attributes, which are not trained.


@pytest.fixture(scope="module", params=["vae", "gan"])
def plain(request, tmp_path_factory):
    """Returns the kind of a model, and its run."""
    folder = tmp_path_factory.mktemp(request.param)
    data, run = write(folder / "faces", range(30)), folder / "run"
    runs.start(small(data, model=request.param), run, {})
    attributes_module.save((), np.zeros((0, 0), int), np.zeros(0), run)
    make(request.param).model.save(run / "model.keras")
    return request.param, str(run)


def test_real_faces_tell_the_direction_of_an_attribute(plain, monkeypatch):
    kind, run = plain
    monkeypatch.setattr(module, "NUM_AVERAGED", 40)
    drawn = np.arange(40) < 13
    monkeypatch.setattr(module, "fit_classifier", lambda *_: lambda _: drawn)
    step = find_direction(run, "hair=red")
    if kind == "gan":
        is_red = drawn
        latents = module.in_batches(module.load_model(run), range(40))["latents"]
    else:
        config = runs.load_config(Config, Path(run))
        examples = load_split(config, "train")
        is_red = np.array([row[2] for row in examples.attributes]) == "red"
        encoder = module.load_model(run, "reconstruct")
        files = map(examples.image_bytes, range(len(examples)))
        latents = module.in_batches(encoder, files)["latents"]
    expected = latents[is_red].mean(axis=0) - latents[~is_red].mean(axis=0)
    np.testing.assert_allclose(step, expected, atol=1e-5)
    with pytest.raises(BadInput, match="hair=gren is no known attribute; did you"):
        find_direction(run, "hair=gren")


def test_only_an_autoencoder_reconstructs_images(plain, tmp_path, capsys):
    kind, run = plain
    paths = tuple((Path(run).parent / "faces/images").glob("00[12].png"))
    options = {**OPTIONS, "image_paths": paths, "folder": tmp_path / "drawn"}
    if kind == "gan":
        with pytest.raises(BadInput, match="no encoder for --images; train one with"):
            predict((), run, *options.values(), tmp_path / "figure.png")
        return
    found = predict((), run, *options.values(), tmp_path / "figure.png")
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[:2]]
    assert names == list(map(str, paths))
    for path, pixels in zip(paths, found["pixels"], strict=True):
        written = Image.open(tmp_path / "drawn" / path.name)
        np.testing.assert_array_equal(np.asarray(written), pixels)


def test_a_model_without_attributes_says_so(plain, tmp_path):
    options = {**OPTIONS, "attributes": ("hair=red",)}
    with pytest.raises(BadInput, match="'hair=red'; train one with --model condit"):
        predict((1,), plain[1], *options.values(), tmp_path / "figure.png")


def test_flags_reach_the_function(run, tmp_path):
    out = succeed(
        *("face_synthesis", "predict", 1, 2, "--model", run, "--interpolate", 1),
        *("--attributes", "hair=red", "--figure", tmp_path / "a.png"),
    )
    assert out.count("hair=red") == 2
    result = run_app("face_synthesis", "predict", "--model", run, "--truncation", 3)
    assert (result.status, "--truncation 3" in result.err) == (2, True)

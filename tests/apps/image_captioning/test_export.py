import io
import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from apps.common import lite
from apps.common.images import decode_image, encode_png, resize_image
from apps.common.predictors import in_batches
from apps.common.tokenizer import END, START
from apps.image_captioning import edge
from apps.image_captioning.config import flickr8k
from apps.image_captioning.data import Examples
from apps.image_captioning.export import bundle, card, exam
from apps.image_captioning.signatures import load_model, words_of
from tests.apps.app_contract import succeed
from tests.apps.image_captioning import shapes
from tests.apps.image_captioning.conftest import APP
from tests.apps.image_captioning.test_evaluate import make_predictor
from tests.apps.image_captioning.untrained import make_captioner, random_images


def encode(image, format="PNG", **options):
    """Returns the file of an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


NEW = [(encode(image), *kind) for image, *kind in map(shapes.draw, range(300, 345))]


def test_the_bundle_has_the_vocabulary_and_the_search_of_the_run(run, exported):
    bundle = exported / "edge"
    assert (bundle / "tokens.model").read_bytes() == (run / "tokens.model").read_bytes()
    assert json.loads((bundle / "settings.json").read_text("utf-8")) == {
        "resize": "squash",
        "beam_size": 3,
        "length_penalty": 1.4,
        "max_tokens": 10,
        "grid": [8, 8],
    }


def test_a_device_needs_no_loop(exported):
    paths = list((exported / "edge").glob("*.tflite"))
    assert len(paths) == 4  # With the link to the recommended one.
    for path in paths:
        operations = lite.operations(path.read_bytes())
        assert operations["CONV_2D"] >= 8
        assert "WHILE" not in operations


def test_the_card_counts_changed_captions(exported):
    card = json.loads((exported / "card.json").read_text())
    rows = {row["engine"]: row for row in card["engines"]}
    assert rows["trained model"]["changed_captions"] == 0
    for name in ("SavedModel", "float32"):
        assert rows[name]["changed_captions"] <= 0.03
    sizes = [rows[name]["size_MB"] for name in ("float32", "float16", "dynamic_range")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.7 * sizes[0]
    text = (exported / "card.md").read_text()
    assert "# Image captioning\n" in text
    assert "32 units with additive attention to 8 × 8 places" in text
    assert "word tokens, 3 beams" in text
    assert "`changed captions` is the fraction of images" in text
    assert "10 strings for each image, empty after the end" in text


def test_an_exam_counts_the_captions_that_differ_from_the_trained_models():
    """The scores are those against the references."""
    captions = [f"{color} {shape} on grey" for _, color, shape in NEW[:20]]
    files = [file for file, *_ in NEW[:20]]
    examples = Examples(captions, files, [(caption,) for caption in captions])
    measure = exam(examples).measure
    right = dict(zip(files, captions, strict=True))
    row, answers = measure(make_predictor(right), None)
    assert answers == captions
    assert (row["bleu_4"], row["changed_captions"]) == (1, 0)
    changed = {**right, files[3]: "nothing", files[4]: "nothing"}
    row, _ = measure(make_predictor(changed), answers)
    assert row["changed_captions"] == 0.1
    assert row["bleu_4"] < 0.95
    # An engine may be better than the trained model, and differ.
    row, _ = measure(make_predictor(right), ["nothing", *captions[1:]])
    assert (row["bleu_4"], row["changed_captions"]) == (1, 0.05)


def test_new_images_are_captioned_rightly(exported, load_model):
    files = [file for file, *_ in NEW]
    for where in ("1", "edge"):
        captions = in_batches(load_model(exported / where), files)["captions"]
        is_right = [
            f"{color} {shape}" in caption.decode()
            for caption, (_, color, shape) in zip(captions, NEW, strict=True)
        ]
        assert np.mean(is_right) > 0.8


def test_a_device_captions_files_of_all_kinds_as_the_trained_model_does(
    run, exported, load_model
):
    images = [shapes.draw(seed)[0] for seed in range(6)]
    transparent = images[1].copy()
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    deep = np.asarray(images[2].convert("L")).astype("uint16") * 257
    files = [
        encode(images[0], "JPEG", quality=90),
        encode(transparent),
        encode(Image.fromarray(deep)),
        encode(images[3].convert("P"), "GIF"),
        encode(images[4], "BMP"),
        encode(images[5].convert("L"), "JPEG"),
        encode(images[0].resize((300, 20))),
        encode(images[1].resize((1, 1))),
    ]
    for signature in ("serving_default", "greedy"):
        expected = load_model(run, signature)(files)
        path = exported / "edge/float32.tflite"
        answers = load_model(path, signature)(files)
        assert set(answers) == set(expected)
        assert answers["captions"].tolist() == expected["captions"].tolist()
        assert answers["tokens"].tolist() == expected["tokens"].tolist()
        for name in ("scores", "attention"):
            assert answers[name].dtype == expected[name].dtype
            np.testing.assert_allclose(answers[name], expected[name], atol=0.02)


def test_the_program_of_a_device_prints_a_caption_for_each_file(
    device, exported, load_model, own_data
):
    bundle, python = device
    paths = sorted((own_data / "images").iterdir())[:12]
    files = [path.read_bytes() for path in paths]
    for flags, signature in (((), "serving_default"), (("--greedy",), "greedy")):
        done = subprocess.run(
            [python, bundle / "run.py", *paths, *flags],
            capture_output=True,
            text=True,
            check=True,
        )
        captions = load_model(exported / "edge", signature)(files)["captions"]
        pairs = zip(paths, captions, strict=True)
        assert done.stdout.splitlines() == [f"{p}\t{c.decode()}" for p, c in pairs]


def test_a_table_is_written_of_a_folder(exported, own_data, tmp_path, load_model):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (file, *_) in enumerate(NEW[:3]):
        (folder / f"{i}.png").write_bytes(file)
    table = tmp_path / "deep/captions.tsv"
    out = succeed(
        *(APP.name, "predict", folder, "--model", exported / "edge", "--tsv", table),
        *("--figure", tmp_path / "figure.png"),
    )
    answers = load_model(exported / "edge")([file for file, *_ in NEW[:3]])
    header, *rows = table.read_text().splitlines()
    assert header == "image\tcaption\tscore"
    assert rows == [
        f"{folder / f'{i}.png'}\t{caption.decode()}\t{score:.4f}"
        for i, (caption, score) in enumerate(
            zip(answers["captions"], answers["scores"], strict=True)
        )
    ]
    assert f"table: {table}\n" in out


@pytest.mark.parametrize(
    ("attention", "token"), [("none", "subword"), ("multiplicative", "word")]
)
def test_a_device_has_every_attention_and_token(attention, token, tmp_path):
    settings = {"attention": attention, "token": token, "max_tokens": 6}
    captioner = make_captioner(**settings)
    lite.write_bundle(bundle(captioner), tmp_path / "edge", ["float32"])
    images = random_images(8)
    files = [encode_png(image.astype("uint8")) for image in images]
    features = captioner.model.extract(images)
    for signature, beam_size in (("serving_default", 3), ("greedy", 1)):
        outputs = captioner.write(features, beam_size)
        expected = {name: value.numpy() for name, value in outputs.items()}
        answers = load_model(str(tmp_path / "edge/float32.tflite"), signature)(files)
        assert len(set(expected["captions"])) > 1
        for name in ("captions", "tokens"):
            assert answers[name].tolist() == expected[name].tolist()
        for name in ("scores", "attention"):
            np.testing.assert_allclose(answers[name], expected[name], atol=1e-3)
        assert answers["attention"].any() == (attention != "none")
        for caption, words in zip(answers["captions"], words_of(answers), strict=True):
            assert "".join(words) == caption.decode().replace(" ", "")


@pytest.mark.parametrize("how", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(50, 31), (31, 50), (20, 20), (1, 90)])
def test_a_device_prepares_images_as_the_graph_does(how, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), "uint8")
    file = encode_png(pixels)
    expected = resize_image(decode_image(file), 32, how)
    np.testing.assert_allclose(edge.prepare(file, 32, how)[0], expected, atol=0.01)


def test_a_device_knows_the_tokens_of_the_vocabulary():
    assert (edge.START, edge.END) == (START, END)


def test_the_card_of_the_preset_names_its_data():
    captioner = make_captioner()
    found = card(flickr8k(), captioner, {"train": [1, 2], "test": [3]})
    assert "MobileNetV2 at 224 × 224 pixels" in found.description
    assert "4 × 4 places" in found.description
    assert found.config.data_licence.startswith("Flickr8k")

import json
import subprocess

import numpy as np
import pytest

from apps.common import lite, saved_models
from apps.common.predictors import in_batches
from apps.translation.export import bundle, served
from apps.translation.signatures import load_run
from tests.apps.app_contract import succeed
from tests.apps.translation.conftest import APP, SMALL, make_pairs


def test_the_bundle_has_the_vocabulary_and_the_search_of_the_run(run, exported):
    edge = exported / "edge"
    assert (edge / "source.model").read_bytes() == (run / "source.model").read_bytes()
    search = json.loads((edge / "search.json").read_text("utf-8"))
    assert search["beam_size"] == SMALL["beam_size"]
    assert search["length_penalty"] == 1.0


def test_each_direction_is_one_operation_in_every_variant(exported):
    for path in (exported / "edge").glob("*.tflite"):
        operations = lite.operations(path.read_bytes())
        assert operations["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 2
        assert "WHILE" not in operations


def test_the_card_counts_changed_translations(exported):
    card = json.loads((exported / "card.json").read_text())
    rows = {row["engine"]: row for row in card["engines"]}
    assert rows["trained model"]["changed_translations"] == 0
    for name in ("SavedModel", "float32"):
        assert rows[name]["changed_translations"] <= 0.02
    assert rows["float16"]["size_MB"] < 0.8 * rows["float32"]["size_MB"]
    text = (exported / "card.md").read_text()
    assert "# Translation: source → target" in text
    assert "`changed translations` is the fraction of sentences" in text


def test_most_translations_of_new_numbers_are_right(run, load_model):
    sources, targets = zip(*make_pairs(1000)[400:450], strict=True)
    answers = in_batches(load_model(run), sources)
    exact = [
        translation.decode() == target
        for translation, target in zip(answers["translations"], targets, strict=True)
    ]
    assert np.mean(exact) > 0.5


def test_the_variant_of_a_device_translates_like_the_trained_model(
    run, exported, load_model, own_data
):
    texts = APP.inputs(own_data)
    for signature in ("serving_default", "greedy"):
        expected = load_model(run, signature)(texts)["translations"]
        found = load_model(exported / "edge", signature)(texts)["translations"]
        assert (found == expected).mean() >= 0.8


def test_a_device_reads_lines_and_can_search_greedily(
    device, exported, load_model, own_data
):
    bundle, python = device
    texts = [text for text in APP.inputs(own_data) if text]
    for flags, signature in (((), "serving_default"), (("--greedy",), "greedy")):
        done = subprocess.run(
            [python, bundle / "run.py", "-", *flags],
            input="\n".join(texts),
            capture_output=True,
            text=True,
            check=True,
        )
        answers = load_model(exported / "edge", signature)(texts)["translations"]
        assert done.stdout.splitlines() == [answer.decode() for answer in answers]


@pytest.mark.slow
def test_text_files_and_separate_vocabularies_go_all_the_way(tmp_path, load_model):
    sources, targets = zip(*make_pairs(120), strict=True)
    data = tmp_path / "mine.de", tmp_path / "mine.en"
    for path, lines in zip(data, (sources, targets), strict=True):
        path.write_text("\n".join(lines) + "\n")
    run = tmp_path / "run"
    succeed(
        *(APP.name, "train", "--data", data[0], "--target-data", data[1]),
        *("--attention", "multiplicative", "--no-joint-vocabulary"),
        *("--vocabulary-size", 60, "--embedding-size", 16, "--encoder-units", 8),
        *("--decoder-units", 16, "--beam-size", 2, "--epochs", 1, "--run", run),
    )
    out = succeed(APP.name, "evaluate", "--model", run, "--json")
    assert json.loads(out.splitlines()[-1])["sentences"] == 30

    # An export would refuse a model that has learned so little.
    translator = load_run(run)
    saved_models.save(served(translator), tmp_path / "1")
    lite.write_bundle(bundle(translator), tmp_path / "edge", ["float32"])
    assert (tmp_path / "edge/target.model").exists()
    texts = [source for source, _ in make_pairs(9, seed=7)]
    expected = load_model(run, "with_attention")(texts)
    for where, same in (("1", 0.7), ("edge/float32.tflite", 1.0)):
        answers = load_model(tmp_path / where, "with_attention")(texts)
        assert set(answers) == set(expected)
        is_alike = answers["translations"] == expected["translations"]
        assert is_alike.mean() >= same
        assert answers["source_tokens"].tolist() == expected["source_tokens"].tolist()

import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from apps.common import predictors, release, runs, saved_models
from apps.common.errors import BadInput, ExportRefused
from apps.common.release import Bundle, Card, Exam, Served

ABOUT = (
    "`about`: `question` (any text) → `about`, a JSON object that says what is served."
)


@dataclass(frozen=True)
class Config:
    data: str = "data/mine"
    data_licence: str = "ours"
    weights: str | None = "/home/me/a.h5"
    word_vectors: tuple[str, ...] = ()
    seed: int = 3


# What every run.py of an edge bundle offers, in a few lines.
PROGRAM = """
import numpy as np
from ai_edge_litert.interpreter import Interpreter

def load_model(path):
    runner = Interpreter(str(path)).get_signature_runner()
    return lambda rows: {"y": np.stack([runner(x=row[None])["y"][0] for row in rows])}
"""
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
HELD_OUT = {"test": ["a1"], "validation": ["b2"]}


def call(model, *shape):
    """Returns a `tf.function` that calls a model."""
    spec = tf.TensorSpec(shape, name="x")
    return tf.function(lambda x: {"y": model(x)}, input_signature=[spec])


def load_model(where):
    def load_signatures(run):
        model = keras.saving.load_model(run / "model.keras")
        return {"serving_default": call(model, None, 4)}

    return predictors.load_predictor(where, "common", load_signatures)


def measure(predictor, reference):
    answers = predictor(ROWS)["y"]
    difference = 0.0 if reference is None else np.abs(answers - reference).max()
    return {"accuracy": 0.9, "max_difference": float(difference)}, answers


EXAM = Exam(
    load_model,
    measure,
    ROWS[0],
    difference="max_difference",
    bounds={"SavedModel": 1e-5, "float32": 1e-5},
    metric="accuracy",
    max_loss=0.01,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a tiny model."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    runs.start(Config(), run, HELD_OUT)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")])
    model.save(run / "model.keras")
    summary = {"best_epoch": 2, "epochs": 3, "val_macro_recall": 0.9, "minutes": 1.5}
    runs.write_json(run / "finished.json", summary)
    return run


def tiny_card(**texts):
    return Card(
        **{
            "name": "A model",
            "description": "It doubles.",
            "unit": "numbers",
            "recommendation": "within 1 point",
            "signatures": "`serving_default`: `x` → `y`.",
            "config": Config(),
            "files_setting": "weights",
            "num_examples": {"train": 12, "validation": 4, "test": 6},
            "classes": ("one", "two"),
            "facts": {"More": "A further paragraph."},
            "limits": {"max_inputs": 128, "max_pixels": 25_000_000},
            **texts,
        }
    )


@pytest.fixture
def publish(run, tmp_path):
    """Publishes the tiny model in `models`; takes what an application decides."""
    model = keras.saving.load_model(run / "model.keras")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def publish(exam=EXAM, variants=("float32",), more=None, replace=False, **texts):
        return release.release(
            run,
            tmp_path / "models",
            variants,
            Served(
                {"serving_default": call(model, None, 4)},
                model.variables,
                warm_up={"serving_default": ROWS[:1]},
            ),
            Bundle(
                str(program),
                "pillow>=11",
                model.variables,
                {"serving_default": call(model, 1, 4)},
                calibration=lambda: [{"x": row[None]} for row in ROWS],
            ),
            exam,
            tiny_card(**texts),
            replace,
            more,
        )

    return publish


def files(folder):
    """Returns the contents of all files below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ask_about(signatures, questions):
    """Returns the answers of the signature `about`."""
    questions = tf.constant(questions, tf.string)
    return signatures["about"](question=questions)["about"].numpy().tolist()


def test_a_release_holds_everything_that_was_measured(publish, run, tmp_path, capsys):
    version = publish(variants=("float32", "dynamic_range", "int8", "float32"))
    models = tmp_path / "models"
    assert version == models / "1"
    found = files(models)
    assert {name for name in found if not name.startswith("1/")} == {
        "card.json",
        "card.md",
        "edge/dynamic_range.tflite",
        "edge/float32.tflite",
        "edge/int8.tflite",
        "edge/model.tflite",
        "edge/requirements.txt",
        "edge/run.py",
        "held_out.json",
    }
    assert (models / "edge/int8.tflite").readlink() == Path("model.tflite")
    assert json.loads(found["held_out.json"]) == HELD_OUT
    for name in ("card.json", "held_out.json"):
        assert found[f"1/assets.extra/{name}"] == found[name]
    requests = found["1/assets.extra/tf_serving_warmup_requests"]
    assert b"serving_default" in requests
    assert b"about" in requests
    signatures = tf.saved_model.load(version).signatures
    assert set(signatures) == {"serving_default", "about"}

    card = json.loads(found["card.json"])
    rows = {row["engine"]: row for row in card["engines"]}
    engines = ["trained model", "SavedModel", "float32", "dynamic_range", "int8"]
    assert list(rows) == engines
    assert rows["trained model"]["max_difference"] == 0
    assert 0 < rows["int8"]["max_difference"] < 0.1
    assert all({"size_MB", "latency_ms"} <= set(row) for row in rows.values())
    assert card["recommended"].startswith("Recommended on a device: int8, as")
    assert card["operations"]["QUANTIZE"] == 1
    assert card["classes"] == ["one", "two"]
    assert card["config"]["weights"] == "a.h5"

    about = ask_about(signatures, ["What?", "", "\xff"])
    assert len(set(about)) == 1
    assert len(about) == 3
    assert json.loads(about[0]) == {
        "application": "common",
        "name": "A model",
        "version": 1,
        "classes": ["one", "two"],
        "config": card["config"],
        "limits": {"max_inputs": 128, "max_pixels": 25_000_000},
        "training": release.training_facts(run, tiny_card()),
        "signatures": f"`serving_default`: `x` → `y`. {ABOUT}",
    }
    for model in (version, models / "edge"):
        assert predictors.about(str(model)) == json.loads(about[0])

    text = found["card.md"].decode()
    for expected in (
        "# A model\n",
        "## Limits\n\nLarger requests, and single inputs that are larger, are refused."
        "\n\n- `max_inputs`: 128\n- `max_pixels`: 25,000,000\n\n## ",
        "on the same 6 test numbers.",
        "| engine | accuracy | max difference | size MB | latency ms |",
        "| SavedModel | 0.9 | ",
        "int8, as `edge/model.tflite`; `edge/int8.tflite` is a link to it. It is the "
        "leanest variant within 1 point.",
        "## More\n\nA further paragraph.\n",
        "`data/mine`: ours.",
        "QUANTIZE 1",
        '"weights": "a.h5"',
    ):
        assert expected in text
    # What was measured is printed, line by line.
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == [f"engine {e}" for e in engines]


def test_a_model_refuses_questions_of_another_shape(publish):
    signatures = tf.saved_model.load(publish()).signatures
    assert ask_about(signatures, []) == []
    for questions in ([["What?"]], "What?", ["What?"] * 33):
        says = r"question must have the shape \(n,\), n at most 32"
        with pytest.raises(tf.errors.InvalidArgumentError, match=says):
            ask_about(signatures, questions)


def test_a_model_of_half_precision_says_what_it_serves_after_a_warm_up(run, tmp_path):
    model = keras.saving.load_model(run / "model.keras")
    about = release.describe(run, tiny_card(), "12")
    signatures = {"serving_default": call(model, None, 4)}
    warm_up = {"serving_default": ROWS[:1]}
    served = Served(signatures, model.variables, warm_up, half=True)
    served = release.with_about(served, about)
    assert set(served.warm_up) == {"serving_default", "about"}
    saved_models.save(served, tmp_path / "12")
    saved_models.write_warm_up(tmp_path / "12", "tiny", served)
    (answer,) = ask_about(tf.saved_model.load(tmp_path / "12").signatures, ["What?"])
    assert json.loads(answer)["version"] == 12


def test_a_card_without_limits_has_no_such_paragraph(publish, tmp_path):
    publish(limits={})
    assert "## Limits" not in (tmp_path / "models/card.md").read_text()


def test_an_earlier_version_keeps_its_own_settings(publish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "newer"):
        (tmp_path / "data" / name).mkdir(parents=True)
    publish()
    before = files(tmp_path / "models/1")
    assert publish(config=Config(data="data/newer"), replace=True).name == "2"
    assert files(tmp_path / "models/1") == before

    def data_of(model):
        model = str(tmp_path / "models" / model)
        return predictors.data_settings(Config, model).config.data

    assert data_of("1") == "data/mine"
    assert data_of("2") == data_of("edge") == "data/newer"
    assert (
        json.loads((tmp_path / "models/card.json").read_text())["config"]
        == (
            json.loads((tmp_path / "models/2/assets.extra/card.json").read_text())[
                "config"
            ]
        )
    )


@pytest.mark.parametrize(
    "exam",
    [
        EXAM._replace(bounds={"SavedModel": -1}),
        EXAM._replace(bounds={"float32": -1}),
        EXAM._replace(metric="max_difference", max_loss=-1),
    ],
    ids=["SavedModel", "float32", "no variant"],
)
def test_an_export_that_breaks_a_bound_publishes_nothing(exam, publish, tmp_path):
    with pytest.raises(ExportRefused):
        publish(exam)
    assert not (tmp_path / "models").exists()
    publish()
    before = files(tmp_path / "models")
    with pytest.raises(ExportRefused):
        publish(exam, config=Config(data="data/newer"), replace=True)
    assert files(tmp_path / "models") == before
    assert not (tmp_path / "models/.export").exists()


def test_further_engines_are_measured_after_the_variants(publish, tmp_path):
    def more(saved_model, edge):
        assert (edge / "model.tflite").exists()
        parts = [edge / "model.tflite", edge / "run.py"]
        return release.measure_engines({"both": (saved_model, parts)}, EXAM)

    publish(more=more)
    card = json.loads((tmp_path / "models/card.json").read_text())
    assert [row["engine"] for row in card["engines"]][-1] == "both"


@pytest.mark.parametrize(
    "other",
    [{"config": Config(data="data/newer")}, {"name": "A model of cats"}],
    ids=["data", "classes"],
)
def test_another_model_is_replaced_only_on_demand(other, publish, tmp_path):
    publish()
    before = files(tmp_path / "models")
    config = other.get("config", Config())
    says = (
        f"{tmp_path}/models serves 'A model', trained on data/mine, and this is "
        f"'{other.get('name', 'A model')}', trained on {config.data}; pass another "
        "directory as --to, or add --replace"
    )
    with pytest.raises(BadInput, match=f"^{re.escape(says)}$"):
        publish(**other)
    assert files(tmp_path / "models") == before
    assert publish(**other, replace=True).name == "2"
    assert publish(**other).name == "3"


def test_the_same_data_may_have_another_path(publish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish()
    assert publish(config=Config(data=f"{tmp_path}/data/mine")).name == "2"


def row(engine, **measurements):
    return {"engine": engine, "accuracy": 0.9, "max_difference": 0.0, **measurements}


@pytest.mark.parametrize("difference", [1.1e-5, np.inf, np.nan])
@pytest.mark.parametrize("engine", ["SavedModel", "float32"])
def test_a_difference_above_its_bound_is_refused(engine, difference):
    rows = [row("trained model"), row("SavedModel"), row("float32")]
    release.check_bounds(rows, EXAM)
    rows.append(row("int8", max_difference=0.5))  # It has no bound.
    release.check_bounds(rows, EXAM)
    rows.append(row(engine, max_difference=difference))
    says = f"the {engine} model differs .*: max difference .* nothing was published"
    with pytest.raises(ExportRefused, match=says):
        release.check_bounds(rows, EXAM)
    release.check_bounds([row(engine, max_difference=1e-5)], EXAM)


@pytest.mark.parametrize(
    ("value", "reference", "higher_is_better", "expected"),
    [
        (0.90, 0.90, True, True),
        (0.95, 0.90, True, True),
        (0.895, 0.90, True, True),
        (0.88, 0.90, True, False),
        (np.nan, 0.90, True, False),
        (0.90, np.nan, True, False),
        (0.10, 0.10, False, True),
        (0.02, 0.10, False, True),
        (0.105, 0.10, False, True),
        (0.12, 0.10, False, False),
        (np.nan, 0.10, False, False),
    ],
)
def test_a_variant_may_lose_a_little(value, reference, higher_is_better, expected):
    exam = EXAM._replace(higher_is_better=higher_is_better)
    assert release.is_good(value, reference, exam) == expected


@pytest.mark.parametrize(
    ("accuracies", "recommended", "left"),
    [
        (
            {"float32": 0.9, "dynamic_range": 0.9, "int8": 0.891},
            "int8",
            {"float32", "dynamic_range", "model: int8", "int8"},
        ),
        (
            {"int8": 0.7, "float32": 0.9, "float16": 0.9, "dynamic_range": 0.893},
            "dynamic_range",
            {"float32", "float16", "model: dynamic_range", "dynamic_range"},
        ),
        ({"int8": 0.895}, "int8", {"model: int8", "int8"}),
    ],
)
def test_the_leanest_good_variant_is_recommended(
    accuracies, recommended, left, tmp_path
):
    for variant in accuracies:
        (tmp_path / f"{variant}.tflite").write_text(variant)
    rows = [row("SavedModel")]
    rows += [row(name, accuracy=accuracy) for name, accuracy in accuracies.items()]
    assert release.recommend(tmp_path, rows, list(accuracies), EXAM) == recommended
    names = set()
    for path in tmp_path.iterdir():
        content = path.read_text()
        names.add(content if path.stem == content else f"{path.stem}: {content}")
    assert names == left


def test_without_a_good_variant_the_export_is_refused(tmp_path):
    (tmp_path / "int8.tflite").touch()
    rows = [row("SavedModel"), row("int8", accuracy=0.8)]
    says = r"none of int8 comes within 0\.01 of the SavedModel's accuracy; add --var"
    with pytest.raises(ExportRefused, match=says):
        release.recommend(tmp_path, rows, ["int8"], EXAM)


def test_what_a_killed_export_left_is_removed(tmp_path):
    models = tmp_path / "models"
    child = os.fork()
    if not child:  # Exports until it is killed.
        with release.staging(models) as stage:
            (stage / "1").mkdir()
            (stage / "1/half.bin").touch()
            (stage / "card.json").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(files(models)) == 2
    with release.staging(models) as stage:
        assert not list(stage.iterdir())
        assert release.next_version(models) == "1"
    assert not models.exists()


def test_two_exports_at_once_are_refused(tmp_path):
    models = tmp_path / "models"
    with release.staging(models) as stage:
        (stage / "card.json").touch()
        says = f"another export is writing to {models}; wait"
        with pytest.raises(BadInput, match=says), release.staging(models):
            pass
        assert (stage / "card.json").exists()
    with release.staging(models):
        pass


def test_versions_are_counted_on(tmp_path):
    for name in ("2", "10", "edge", ".export"):
        (tmp_path / name).mkdir()
    (tmp_path / "card.md").touch()
    assert release.next_version(tmp_path) == "11"


def test_sizes_are_in_millions_of_bytes_and_count_all_files(tmp_path):
    (tmp_path / "folder/deep").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x" * 1_500_000)
    (tmp_path / "folder/deep/file").write_bytes(b"x" * 500_000)
    assert release.size_mb([tmp_path / "file"]) == 1.5
    assert release.size_mb([tmp_path]) == 2.0
    assert release.size_mb([tmp_path / "file", tmp_path / "folder"]) == 2.0
    assert release.size_mb([]) == 0
    (tmp_path / "folder/link").symlink_to("deep/file")
    assert release.size_mb([tmp_path / "folder"]) == 0.5
    assert release.size_mb([tmp_path / "folder/link"]) == 0.5


def test_the_latency_is_that_of_one_input_after_a_first_call():
    calls = []
    milliseconds = release.latency_ms(calls.append, b"input", num_repetitions=5)
    assert calls == [[b"input"]] * 6
    assert 0 <= milliseconds < np.inf


def test_the_facts_of_a_training(run, tmp_path):
    card = Card(
        *("", "", "texts", "", ""),
        config=Config(),
        files_setting="weights",
        num_examples={"train": 12, "validation": 4},
    )
    assert release.training_facts(run, card) == (
        "Trained on 12 texts, seed 3, in 1.5 minutes. Epoch 2 of 3 was kept; on 4 "
        "validation texts it has macro recall 0.9000."
    )
    (tmp_path / "model.keras").touch()
    summary = {"best_epoch": 3, "epochs": 3, "minutes": 1.5}
    runs.write_json(tmp_path / "finished.json", summary)
    assert release.training_facts(tmp_path, card) == (
        "Trained on 12 texts, seed 3, in 1.5 minutes. The last of 3 epochs was kept."
    )


def test_a_card_shows_the_name_of_a_folder_of_data(publish, tmp_path):
    data = str(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    publish(config=Config(data=data))
    text = (tmp_path / "models/card.md").read_text()
    assert "`photos`: ours." in text
    assert '"data": "photos"' in text
    assert str(tmp_path) not in text
    # So that `evaluate` finds it.
    model = str(tmp_path / "models/1")
    assert predictors.data_settings(Config, model).config.data == data


def test_a_card_shows_no_folders_of_weights():
    config = Config(word_vectors=("/home/me/b.npz", "c.txt"))
    card = release.card_config(config, "weights")
    assert (card["weights"], card["data"]) == ("a.h5", "data/mine")
    assert card["word_vectors"] == ("/home/me/b.npz", "c.txt")
    card = release.card_config(config, "word_vectors")
    assert (card["weights"], card["word_vectors"]) == (
        "/home/me/a.h5",
        ("b.npz", "c.txt"),
    )
    assert release.card_config(Config(weights=None), "weights")["weights"] is None

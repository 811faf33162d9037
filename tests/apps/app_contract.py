"""Checks that every application must pass, on one short training of each.

An application describes itself in `conftest.py` of its tests:

    APP = App("image_classification", …)
    globals().update(fixtures(APP))

and runs the checks in `test_contract.py`:

    class TestContract(AppContract):
        pass

The training is killed in its second epoch and resumed, and then exported once. All
checks share it.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import ExifTags, Image, ImageOps
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from apps.common import limits, lite, predictors, ranges, release, runs
from apps.common.errors import BadInput, ExportRefused, flag
from benchmarks import malformed_requests
from tests.conftest import run_command
from tests.device import make_device
from tests.model_server import serve

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, eq=False)
class App:
    """What the checks need to know about an application.

    Attributes:
        name: The name of the application.
        write_data: Writes a small data set of the user into a folder, in the documented
            format. Returns the value of `--data`.
        add_data: Adds examples to a copy of that data set.
        settings: Settings of a training that takes seconds and learns the data.
        num_examples: The number of examples in each split of that data.
        inputs: Returns raw inputs for a model, given the data.
        arguments: Returns the arguments of `predict` and of `run.py` for the first of
            these inputs, given the data.
        answers: Patterns that the lines of `predict` match, one for each argument.
        device_answers: The same for the lines of `run.py`.
        signatures: For each signature but `about`, its input and its outputs.
        tensors: An input of the signature `tensors`.
        check_alike: Compares the answers of an engine with those of the trained model.
            Takes both, the name of the engine and the signature.
        make_exam: Returns the `release.Exam` of an export, given the test examples and
            the configuration.
        spoil: Returns answers that are wrong, given the right ones.
        metric: The metric in reports and cards.
        min_score: The least that the short training must reach.
        engines: The names of the engines in the card.
        operations: Operations that the card's recommended variant must have.
        bundle: The files of the edge bundle besides `run.py`, `requirements.txt` and
            the variants.
        requirements: What `run.py` needs besides numpy and the interpreter.
        run_files: The files without which a run cannot be loaded.
        figures: The figures of an evaluation.
        unreadable: Writes files that cannot be read into a folder. Returns arguments of
            `predict` and of `run.py`, and a part of the message of each; None where
            they can be read.
        bad_settings: Settings with which a run cannot be loaded, and the message.
        preset: A misspelt preset, and the right name.
        released: The least values in the released card, by engine and measurement.
        max_released_mb: The largest size of the released model.
        stock_imports: What stock TensorFlow must import before it loads the model.
        counted: What the report calls the number of examples.
        good: Good inputs of signatures that take other inputs than the default one, by
            the name of the input.
        bad: Inputs that are answered with an error, each with a part of its error, by
            the name of the input; for inputs of which the contract has none.
        tolerance: Of the outputs of `tensors`. None compares them by `check_alike`.
    """

    name: str
    write_data: Callable[[Path], Path]
    add_data: Callable[[Path], None]
    settings: Mapping[str, Any]
    num_examples: Mapping[str, int]
    inputs: Callable[[Path], Sequence[Any]]
    arguments: Callable[[Path], Sequence[Any]]
    answers: Sequence[str]
    device_answers: Sequence[str]
    signatures: Mapping[str, tuple[str, set[str]]]
    tensors: np.ndarray
    check_alike: Callable[[Any, Any, str, str], None]
    make_exam: Callable[[Any, Any], release.Exam]
    spoil: Callable[[Any], Any]
    metric: str
    min_score: float
    engines: Sequence[str]
    operations: Sequence[str]
    bundle: set[str]
    requirements: Sequence[str]
    run_files: Sequence[str]
    figures: set[str]
    unreadable: Callable[[Path], Sequence[tuple[Sequence[Any], str, str]]]
    preset: tuple[str, str]
    released: Mapping[str, Mapping[str, float]]
    max_released_mb: float
    bad_settings: Sequence[tuple[Mapping[str, Any], str]] = ()
    stock_imports: str = "tensorflow"
    counted: str = "examples"
    good: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    bad: Mapping[str, Sequence[tuple[Any, str]]] = dataclasses.field(
        default_factory=dict
    )
    tolerance: float | None = 1e-5

    def module(self, name):
        """Returns a module of the application."""
        return importlib.import_module(f"apps.{self.name}.{name}")

    @property
    def config_class(self):
        return self.module("config").Config

    @property
    def exported_signatures(self):
        """The signatures of an exported model, as `signatures` lists them."""
        return {**self.signatures, "about": ("question", {"about"})}

    @property
    def limits(self):
        """What a request may contain, by name."""
        return self.module("signatures").LIMITS

    def good_inputs(self, signature, data):
        """Returns inputs of a signature, given the data."""
        if signature == "tensors":
            return list(self.tensors)
        if signature == "about":
            return ["", "What do you serve?", b"\xff"]
        input_name, _ = self.signatures[signature]
        return list(self.good.get(input_name) or self.inputs(data))

    def bad_inputs(self, signature):
        """Returns inputs that a signature answers with an error.

        Each comes with a part of its error.
        """
        input_name, _ = self.exported_signatures[signature]
        if input_name in self.bad:
            return list(self.bad[input_name])
        if signature == "tensors":
            return bad_tensors(self.tensors, input_name)
        if input_name == "image_bytes":
            return bad_images()
        if input_name == "audio_bytes":
            return bad_audio()
        if input_name == "text":
            return bad_texts(self.limits)
        return []

    def flags(self, data):
        """Returns the flags of the short training."""
        flags = ["--data", str(data)]
        for name, value in self.settings.items():
            if isinstance(value, bool):
                flags.append(flag(name if value else f"no_{name}"))
            else:
                values = value if isinstance(value, tuple) else (value,)
                flags += [flag(name), *map(str, values)]
        return flags


class Training(NamedTuple):
    """A training that was killed and resumed.

    Attributes:
        run: The run directory.
        epochs_before: The number of epochs in the backup when it was killed.
        files_before: The settings, the vocabulary and other files that were written
            when it was killed, with their contents.
        output: What the resumed training printed.
        errors: What the killed one printed on standard error.
    """

    run: Path
    epochs_before: int
    files_before: dict[str, bytes]
    output: str
    errors: str


class Result(NamedTuple):
    """What a command returned and printed."""

    status: int
    out: str
    err: str


def run_app(name, *arguments):
    """Runs `python -m apps.NAME ARGUMENTS` in this process; returns its `Result`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_command(name, *arguments)
    return Result(status, out.getvalue(), err.getvalue())


def succeed(name, *arguments):
    """Runs a command that must succeed; returns what it printed."""
    result = run_app(name, *arguments)
    assert result.status == 0, result.err
    return result.out


def run_alone(name, *arguments):
    """Runs `python -m apps.NAME ARGUMENTS` in its own process; returns its `Result`."""
    done = subprocess.run(
        [sys.executable, "-m", f"apps.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def train_and_kill(app, data, run):
    """Trains, kills the process in the second epoch, and resumes."""
    arguments = ["train", *app.flags(data), "--run", str(run)]
    errors = run.parent / "errors.txt"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", f"apps.{app.name}", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=ROOT,
        )
    seen = b""
    while not re.search(rb"^epoch 1 of ", seen, re.MULTILINE):
        part = os.read(process.stdout.fileno(), 1 << 12)
        assert part, seen.decode()  # It ended by itself.
        seen += part
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    files = {
        path.name: path.read_bytes()
        for path in run.iterdir()
        if path.suffix in (".json", ".model")
    }
    backup, _ = runs.backups(run / "backup")[-1]
    return Training(
        run,
        epochs_before=backup.epochs,
        files_before=files,
        output=succeed(app.name, *arguments),
        errors=errors.read_text(),
    )


def fixtures(app):
    """Returns the fixtures of an application by name.

    - app: The `App`.
    - own_data: The user's data.
    - config: The configuration of the short training.
    - training: The `Training`.
    - run: Its run directory.
    - exported: The directory of the exported model.
    - device: The edge bundle on a stand-in for a device, as `make_device` returns it.
    - addresses: The REST and the gRPC address of a server of the exported model.
    - load_model: Function of a model and a signature that returns the predictor.
    - stock_answers: The answers of the exported model to `server_requests`, by
      signature, in a process without our code.
    """
    session = pytest.fixture(scope="session")
    # `keras.utils.set_random_seed` deletes the tokenizers of models that are loaded, so
    # models are loaded again in the next file.
    module = pytest.fixture(scope="module")

    @session
    def own_data(tmp_path_factory):
        return app.write_data(tmp_path_factory.mktemp("data"))

    @session
    def config(own_data):
        return app.config_class(str(own_data), **app.settings)

    @session
    def training(own_data, tmp_path_factory):
        return train_and_kill(app, own_data, tmp_path_factory.mktemp("runs") / "mine")

    @session
    def run(training):
        return training.run

    @session
    def exported(run, tmp_path_factory):
        to = tmp_path_factory.mktemp("saved_models") / app.name
        (to / ".export/1").mkdir(parents=True)  # As a killed export leaves it.
        result = run_alone(app.name, "export", "--run", run, "--to", to)
        assert result.status == 0, result.err
        (to.parent / "errors.txt").write_text(result.err)
        return to

    @session
    def device(exported, tmp_path_factory):
        return make_device(exported / "edge", tmp_path_factory.mktemp("device"))

    @module
    def addresses(exported):
        with serve(app.name, exported / "1") as addresses:
            yield addresses

    @module
    def load_model():
        load = app.module("signatures").load_model
        return functools.cache(
            lambda where, signature="serving_default": load(str(where), signature)
        )

    @module
    def stock_answers(exported, own_data, tmp_path_factory):
        requests = {
            signature: server_requests(app, signature, own_data)
            for signature in app.exported_signatures
        }
        folder = tmp_path_factory.mktemp("stock")
        return ask_stock_tensorflow(app, exported / "1", requests, folder)

    return {
        "app": pytest.fixture(scope="session")(lambda: app),
        "own_data": own_data,
        "config": config,
        "training": training,
        "run": run,
        "exported": exported,
        "device": device,
        "addresses": addresses,
        "load_model": load_model,
        "stock_answers": stock_answers,
    }


class AppContract:
    """The checks, as methods, so that each application runs them under its own name."""

    # Training.

    def test_a_killed_training_resumes(self, training, config):
        assert 1 <= training.epochs_before < config.epochs
        assert "finished.json" not in training.files_before
        # One line for each epoch, without a progress bar.
        lines = re.findall(r"^epoch (\d+) of \d+: loss .* s", training.output, re.M)
        missing = range(training.epochs_before, config.epochs)
        assert lines == [str(epoch + 1) for epoch in missing]
        assert not re.search(r"[\r\b\x1b]", training.output + training.errors)
        epochs = [row["epoch"] for row in runs.read_history(training.run)]
        assert epochs == list(range(config.epochs))
        assert {"config.json", "held_out.json"} <= set(training.files_before)
        for name, content in training.files_before.items():
            assert (training.run / name).read_bytes() == content, name

    def test_a_run_holds_its_record(self, run, config):
        assert runs.load_config(type(config), run) == config
        assert {"history.csv", "curves.png", "held_out.json"} <= names(run)
        assert list((run / "logs").rglob("events.out.tfevents*"))
        assert list(names(run / "backup"))
        assert runs.summary(run)["epochs"] == config.epochs

    def test_a_training_begins_with_what_was_read(self, app, training, own_data):
        everything = sum(app.num_examples.values())
        assert training.output.startswith(f"{own_data}: {everything} ")
        for split, number in app.num_examples.items():
            assert re.search(rf"^  {split}: {number}\b", training.output, re.MULTILINE)

    def test_a_finished_training_is_not_repeated(self, app, run, own_data):
        before = (run / "model.keras").stat().st_mtime_ns
        out = succeed(app.name, "train", *app.flags(own_data), "--run", run)
        assert not re.search(r"^epoch \d+ of \d+:", out, re.MULTILINE)
        assert "is kept, with validation " in out
        assert out.endswith(f"run: {run}\n")
        assert (run / "model.keras").stat().st_mtime_ns == before

    def test_a_training_can_be_limited(self, app, config, tmp_path, monkeypatch):
        class Started(Exception):
            pass

        def fit(model, batches, *arguments, **options):
            raise Started(len(batches), options["epochs"], options["max_minutes"])

        monkeypatch.setattr(runs, "fit", fit)
        config = dataclasses.replace(config, max_steps=1, max_minutes=5)
        with pytest.raises(Started) as started:
            app.module("train").train(config, tmp_path / "run")
        assert started.value.args == (1, 1, 5)

    # Evaluation and prediction.

    @pytest.mark.parametrize(
        "engine", ["trained model", "SavedModel", "REST", "gRPC", "recommended"]
    )
    def test_the_card_says_what_evaluate_measures(
        self, app, run, exported, addresses, engine, tmp_path
    ):
        card = read_json(exported / "card.json")
        rows = {row["engine"]: row for row in card["engines"]}
        rows["recommended"] = rows[recommended(card)]
        rows["REST"] = rows["gRPC"] = rows["SavedModel"]
        model = {"trained model": run, **exported_engines(exported, addresses)}
        model = model.get(engine, exported / "edge")
        folder = tmp_path / "deep/figures"
        out = succeed(
            *(app.name, "evaluate", "--model", model, "--json", "--figures", folder)
        )
        report = json.loads(out.splitlines()[-1])
        assert report[app.counted] == app.num_examples["test"]
        assert report[app.metric] == pytest.approx(
            rows[engine][app.metric], rel=1e-3, abs=1e-4
        )
        assert report[app.metric] >= app.min_score
        assert names(folder) == app.figures
        assert f"figures: {folder}" in out

    def test_figures_lie_in_the_run_unless_named(self, app, run):
        succeed(app.name, "evaluate", "--model", run)
        assert names(run / "evaluation") == app.figures

    def test_other_data_without_splits_is_scored_whole(
        self, app, exported, own_data, tmp_path, monkeypatch
    ):
        other = copy(own_data, tmp_path)
        monkeypatch.chdir(tmp_path)
        evaluate = [app.name, "evaluate", "--model", exported / "1", "--json"]
        out = succeed(*evaluate, "--data", other)
        everything = sum(app.num_examples.values())
        says = f"{other} has no split 'test'; all {everything} examples are scored\n"
        assert says in out
        assert json.loads(out.splitlines()[-1])[app.counted] == everything
        (folder,) = (tmp_path / "runs" / app.name).iterdir()
        assert folder.name.startswith("evaluation_")
        assert folder.name.endswith(own_data.name)
        assert names(folder) == app.figures

    def test_predict_prints_and_draws(self, app, run, exported, own_data, tmp_path):
        figure = tmp_path / "deep/figure.png"
        for model in (run, exported / "edge"):
            out = succeed(
                *(app.name, "predict", *app.arguments(own_data)),
                *("--model", model, "--figure", figure),
            )
            check_lines(out.splitlines()[:-1], app.answers)
            assert out.endswith(f"figure: {figure}\n")
            assert figure.stat().st_size > 1000
            figure.unlink()

    def test_predict_takes_test_examples_by_default(self, app, exported, tmp_path):
        figure = tmp_path / "figure.png"
        predict = ["predict", "--model", exported / "1", "--figure", figure]
        out = succeed(app.name, *predict)
        assert len(out.splitlines()) > 2
        assert figure.exists()

    def test_new_examples_do_not_change_the_test_split(
        self, app, run, exported, own_data, tmp_path
    ):
        grown = copy(own_data, tmp_path)
        app.add_data(grown)
        load_split = app.module("data").load_split
        for model in (run, exported / "1", exported / "edge"):
            config, is_other_data, held_out = predictors.data_settings(
                app.config_class, str(model)
            )
            assert not is_other_data
            assert config.data == str(own_data)
            before = load_split(config, "test", False, held_out)
            config = dataclasses.replace(config, data=str(grown))
            after = load_split(config, "test", False, held_out)
            assert len(before) == app.num_examples["test"]
            assert sorted(after.names) == sorted(before.names)
            # Without the record the split would change.
            drawn_again = load_split(config, "test")
            assert sorted(drawn_again.names) != sorted(before.names)
            assert len(drawn_again) > len(before)

        # As if the data of the run had grown.
        shutil.copytree(run, tmp_path / "run")
        settings = {**read_json(run / "config.json"), "data": str(grown)}
        runs.write_json(tmp_path / "run/config.json", settings)
        reports = [
            json.loads(
                succeed(
                    *(app.name, "evaluate", "--model", model, "--json"),
                    *("--figures", tmp_path / "figures"),
                ).splitlines()[-1]
            )
            for model in (run, tmp_path / "run")
        ]
        for name in (app.counted, app.metric):
            assert reports[0][name] == pytest.approx(reports[1][name])

    # The engines.

    def test_five_engines_answer_alike(
        self, app, run, exported, addresses, load_model, own_data
    ):
        for signature in app.signatures:
            if signature == "tensors":
                continue
            inputs = app.good_inputs(signature, own_data)
            expected = load_model(run, signature)(inputs)
            assert set(expected) == app.signatures[signature][1] - {"errors"}
            for engine, where in exported_engines(exported, addresses).items():
                answers = load_model(where, signature)(inputs)
                assert set(answers) == set(expected), engine
                app.check_alike(answers, expected, engine, signature)

    def test_prepared_tensors_are_answered_alike(self, app, run, exported, load_model):
        answers = load_model(exported / "1", "tensors")(app.tensors)
        expected = load_model(run, "tensors")(app.tensors)
        if app.tolerance is None:
            app.check_alike(answers, expected, "SavedModel", "tensors")
            return
        for name, value in expected.items():
            if value.dtype != object:
                np.testing.assert_allclose(answers[name], value, atol=app.tolerance)

    def test_addresses_answer_as_the_saved_model_does_to_the_last_digit(
        self, app, exported, addresses, load_model, own_data
    ):
        for signature, (_, outputs) in app.exported_signatures.items():
            inputs = as_array(app.good_inputs(signature, own_data))
            expected = load_model(exported / "1", signature)(inputs)
            assert set(expected) == outputs - {"errors"}
            for address in addresses:
                answers = load_model(address, signature)(inputs)
                assert set(answers) == set(expected)
                for name, value in expected.items():
                    assert answers[name].dtype == value.dtype
                    np.testing.assert_array_equal(answers[name], value)

    def test_signatures_have_the_names_that_are_documented(self, app, exported):
        assert signature_names(exported / "1") == app.exported_signatures
        assert documented_signatures()[app.name] == app.exported_signatures

    def test_warm_up_requests_can_be_answered(self, app, exported, load_model):
        path = exported / "1/assets.extra/tf_serving_warmup_requests"
        answered = set()
        for record in tf.data.TFRecordDataset(str(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            request = log.predict_log.request
            assert request.model_spec.name == app.name
            signature = request.model_spec.signature_name
            ((input_name, value),) = request.inputs.items()
            name, outputs = app.exported_signatures[signature]
            assert input_name == name
            answers = load_model(exported / "1", signature)(tf.make_ndarray(value))
            assert set(answers) == outputs - {"errors"}
            answered.add(signature)
        assert answered == set(app.exported_signatures)

    # The server.

    def test_stock_tensorflow_gives_the_same_answers(
        self, app, exported, load_model, stock_answers, own_data
    ):
        for signature, answers in stock_answers.items():
            inputs = as_array(app.good_inputs(signature, own_data))
            expected = load_model(exported / "1", signature)(inputs)
            for name, value in expected.items():
                np.testing.assert_array_equal(answers["good"][name], value)

    def test_batches_of_the_server_get_the_answers_of_single_inputs(
        self, app, stock_answers
    ):
        for answers in stock_answers.values():
            alone = [each for name, each in answers.items() if "alone" in name]
            halves = [answers["first half"], answers["second half"]]
            check_joined(alone, answers["mixture"])
            check_joined(halves, answers["mixture"])

    def test_a_bad_input_gets_an_error_and_the_others_their_answers(
        self, app, stock_answers, own_data
    ):
        for signature in app.signatures:
            _, errors = mixture(app, signature, own_data)
            assert "" in errors
            assert len(set(errors)) > 1
            answers = stock_answers[signature]["mixture"]
            for i, part in enumerate(errors):
                error = answers["errors"][i].decode()
                assert part in error
                assert bool(part) == bool(error), error
                # The answer to a bad input is neutral.
                assert not error or not any(
                    value[i : i + 1].astype(bool).any()
                    for name, value in answers.items()
                    if name != "errors"
                )

    def test_requests_without_inputs_get_empty_answers(self, stock_answers):
        for answers in stock_answers.values():
            for request in ("no inputs", "empty list"):
                assert set(answers[request]) == set(answers["mixture"])
                for name, value in answers[request].items():
                    expected = answers["mixture"][name]
                    assert (len(value), value.ndim) == (0, expected.ndim)
                    assert value.dtype == expected.dtype

    def test_requests_are_limited(self, app, stock_answers):
        for signature, answers in stock_answers.items():
            number = max_inputs(app, signature)
            assert {len(each) for each in answers["max_inputs"].values()} == {number}
            input_name, _ = app.exported_signatures[signature]
            for request in {"too many", "too long"} & set(answers):
                assert f"{input_name} must have the shape (" in answers[request]
            assert f"n at most {number}" in answers["too many"]
            if input_name == "token_ids":
                assert f" at most {app.limits['max_tokens']}," in answers["too long"]

    def test_malformed_requests_are_refused_or_answered(self, app, exported):
        rows = malformed_requests.probe(exported / "1")
        assert {row.signature for row in rows} == set(app.exported_signatures)
        for row in rows:
            assert not row.failures
            assert row.requests == row.refused + row.answered >= 200
            assert row.not_finite == 0
            assert row.max_megabytes <= 1500, row.largest
            input_name, _ = app.exported_signatures[row.signature]
            for message in row.messages:
                assert f"{input_name} must have the shape (" in message or (
                    "tensor but is a double tensor" in message
                )

    def test_a_model_says_what_it_serves(self, app, exported, addresses, stock_answers):
        card = read_json(exported / "card.json")
        names = ("application", "name", "version", "classes", "config", "limits")
        about = {
            **{name: card[name] for name in (*names, "confidence") if name in card},
            "training": card["facts"]["Training"],
            "signatures": card["facts"]["Signatures"],
        }
        assert (about["application"], about["version"]) == (app.name, 1)
        for where in (exported / "1", exported / "edge", *addresses):
            assert predictors.about(str(where)) == about
        for text in stock_answers["about"]["mixture"]["about"]:
            assert json.loads(text) == about

    def test_a_model_of_another_application_is_refused(self, app, exported, addresses):
        other = "translation" if app.name != "translation" else "sentiment_analysis"
        for where in (exported / "1", exported / "edge", *addresses):
            for verb in ("evaluate", "predict"):
                result = run_app(other, verb, "--model", where)
                assert result.status == 2
                says = f"error: --model {where} serves {app.name}, not {other}; "
                assert result.err.startswith(says)

    def test_limits_are_documented(self, app, exported):
        assert read_json(exported / "card.json")["limits"] == app.limits
        readme = (ROOT / "saved_models/README.md").read_text()
        for name, value in app.limits.items():
            assert f"`{name}`: {value:,}\n" in (exported / "card.md").read_text()
            assert f"`{name}`" in readme
            assert f"{value:,}" in readme

    # The export.

    def test_an_export_holds_everything(self, app, run, exported):
        assert names(exported) == {"1", "edge", "card.json", "card.md", "held_out.json"}
        card = read_json(exported / "card.json")
        others = set(lite.VARIANTS) & set(app.engines) - {recommended(card)}
        found = names(exported / "edge") - {f"{other}.tflite" for other in others}
        link = exported / "edge" / f"{recommended(card)}.tflite"
        assert link.readlink() == Path("model.tflite")
        assert found - {link.name} == (
            app.bundle | {"model.tflite", "requirements.txt", "run.py"}
        )
        requirements = (exported / "edge/requirements.txt").read_text().splitlines()
        assert requirements == [*lite.REQUIREMENTS, *app.requirements]
        assert runs.read_held_out(exported) == runs.read_held_out(run)

    def test_engines_with_other_answers_break_a_bound(
        self, app, run, config, load_model
    ):
        load_split = app.module("data").load_split
        examples = load_split(config, "test", held_out=runs.read_held_out(run))
        exam = app.make_exam(examples, config)
        predictor = load_model(run)
        trained, answers = exam.measure(predictor, None)
        same, _ = exam.measure(predictor, answers)
        spoiled, _ = exam.measure(lambda raw: app.spoil(predictor(raw)), answers)
        assert set(exam.bounds) >= {"SavedModel", "float32"}
        for engine in exam.bounds:
            release.check_bounds([{"engine": engine, **same}], exam)
            with pytest.raises(ExportRefused, match=f"the {engine} model differs"):
                release.check_bounds([{"engine": engine, **spoiled}], exam)
        assert release.is_good(same[exam.metric], trained[exam.metric], exam)
        assert not release.is_good(spoiled[exam.metric], trained[exam.metric], exam)

    def test_the_card_lists_every_engine(self, app, exported, config):
        card = read_json(exported / "card.json")
        assert [row["engine"] for row in card["engines"]] == list(app.engines)
        for row in card["engines"]:
            assert row["size_MB"] > 0
            assert row["latency_ms"] > 0
        assert card["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
        text = (exported / "card.md").read_text()
        for name in app.engines:
            assert f"| {name} |" in text
        for name in app.exported_signatures:
            assert f"`{name}`" in text
        assert config.data not in text
        for operation in app.operations:
            assert operation in card["operations"]
            assert operation in text

    def test_a_version_keeps_its_own_card(self, exported):
        for name in ("card.json", "held_out.json"):
            record = exported / "1/assets.extra" / name
            assert record.read_bytes() == (exported / name).read_bytes()

    def test_a_device_has_all_operations(self, exported):
        for path in (exported / "edge").glob("*.tflite"):
            operations = lite.operations(path.read_bytes())
            assert not [
                name for name in operations if name.startswith(("Flex", "CUSTOM"))
            ]

    # The device.

    def test_the_bundle_runs_without_tensorflow(self, app, device, own_data, tmp_path):
        bundle, python = device
        missing = subprocess.run(
            [python, "-c", "import tensorflow"], capture_output=True, text=True
        )
        assert "No module named 'tensorflow'" in missing.stderr
        arguments = app.arguments(own_data)
        for flags in ((), ("--model", bundle / "model.tflite")):
            done = run_on_device(device, *arguments, *flags, folder=tmp_path)
            assert done.returncode == 0, done.stderr
            check_lines(done.stdout.splitlines(), app.device_answers)

    def test_the_bundle_refuses_what_it_cannot_read(
        self, app, device, own_data, tmp_path
    ):
        some = app.arguments(own_data)[:1]
        cases = [
            ([], "required"),
            ([*some, "--model", "nowhere.tflite"], "no model nowhere.tflite"),
            *((values, says) for values, _, says in app.unreadable(tmp_path) if says),
        ]
        before = names(tmp_path)
        for arguments, says in cases:
            done = run_on_device(device, *arguments, folder=tmp_path)
            assert done.returncode == 2
            assert says in done.stderr
            assert "Traceback" not in done.stderr
            assert names(tmp_path) == before

    # Refusals.

    def test_inputs_that_cannot_be_read_are_refused(self, app, run, refused, tmp_path):
        for values, says, _ in app.unreadable(tmp_path):
            if says:
                refused("predict", *values, "--model", run, says=[says])

    def test_files_that_cannot_be_written_are_named(
        self, app, run, exported, own_data, refused
    ):
        Path("file").touch()
        some = app.arguments(own_data)
        predict = ["predict", *some, "--model", exported / "edge", "--figure"]
        evaluate = ["evaluate", "--model", exported / "edge", "--figures"]
        train = ["train", *app.flags(own_data), "--run"]
        for command in (predict, evaluate, train, ["export", "--run", run, "--to"]):
            refused(*command, "file/a/b", says=["file/a", "Not a directory; correct"])
        refused(*predict, "/dev/full", says=["No space left on device; free some"])
        result = run_app(app.name, *predict, "/dev/full")
        check_lines(result.out.splitlines(), app.answers)

    def test_another_model_is_not_replaced(self, run, exported, refused, tmp_path):
        models = shutil.copytree(exported, tmp_path / "models", symlinks=True)
        card = {**read_json(exported / "card.json"), "name": "Another model"}
        runs.write_json(models / "card.json", card)
        says = ["models serves 'Another model'", "add --replace"]
        refused("export", "--run", run, "--to", "models", says=says)

    def test_missing_data_is_refused(self, refused):
        refused("train", "--data", "nowhere", says=[" nowhere", "--data"])

    def test_misspelt_presets_and_flags_are_refused(self, app, refused):
        misspelt, right = app.preset
        says = f"no preset '{misspelt}'; did you mean '{right}'?"
        refused("train", misspelt, says=[says])
        result = run_app(app.name, "train", "--batch-siz", 3)
        assert result.status == 2
        assert "--batch-size" in result.err
        assert "Traceback" not in result.err

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("--learning-rate", value) for value in ("nan", "-1", "0", "inf")),
            *(("--epochs", -1), ("--batch-size", 0), ("--seed", -1)),
        ],
    )
    def test_numbers_out_of_range_are_refused(self, name, value, refused):
        refused("train", name, value, says=[f"{name} {value}", "must be from"])

    def test_every_number_has_a_range_that_is_checked(self, app):
        good = app.config_class("data")
        hints = typing.get_type_hints(app.config_class, include_extras=True)
        for field in dataclasses.fields(app.config_class):
            for smallest, largest in set(ranges.ranges(hints[field.name])):
                for number in (smallest - 1, largest + 1, math.nan):
                    value = getattr(good, field.name)
                    is_tuple = "tuple" in str(hints[field.name])
                    value = (number, *(value or ())[1:]) if is_tuple else number
                    with pytest.raises(BadInput, match=f"^{flag(field.name)} "):
                        dataclasses.replace(good, **{field.name: value})

    def test_a_run_with_other_settings_is_refused(self, app, run, own_data, refused):
        train = ["train", *app.flags(own_data), "--run", run]
        refused(*train, "--seed", 7, says=[str(run), "another seed; pass --run"])

    def test_a_run_in_training_is_not_trained_twice(
        self, app, run, own_data, refused, tmp_path
    ):
        mine = Path(shutil.copytree(run, tmp_path / "mine"))
        with runs.locked(mine):
            before = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
            train = ["train", *app.flags(own_data), "--run", mine]
            refused(*train, says=[f"another training uses {mine}; wait"])
            after = {path: path.stat().st_mtime_ns for path in mine.rglob("*")}
            assert after == before
            # It can be used.
            some = app.arguments(own_data)[:1]
            succeed(app.name, "predict", *some, "--model", mine, "--figure", "a.png")

    def test_something_that_is_no_model_is_refused(self, app, own_data, refused):
        some = app.arguments(own_data)[:1]
        says = ["--model nothing is no model"]
        refused("evaluate", "--model", "nothing", says=says)
        refused("predict", *some, "--model", "nothing", says=says)

    def test_a_model_without_a_record_needs_data(self, exported, refused, tmp_path):
        shutil.copytree(exported / "edge", tmp_path / "moved/edge")
        for verb in ("evaluate", "predict"):
            says = ["moved/edge does not record", "add --data"]
            refused(verb, "--model", "moved/edge", says=says)

    def test_a_damaged_run_is_refused(self, app, run, own_data, refused, tmp_path):
        some = app.arguments(own_data)[:1]
        for name in app.run_files:
            damaged = shutil.copytree(run, tmp_path / "damaged")
            (damaged / name).write_bytes(b"junk")
            says = ["damaged cannot be loaded", "train again"]
            refused("predict", *some, "--model", "damaged", says=says)
            shutil.rmtree(damaged)

    def test_a_damaged_version_is_refused(self, app, exported, own_data, refused):
        some = app.arguments(own_data)[:1]
        damaged = Path("damaged")
        damaged.mkdir()
        (damaged / "saved_model.pb").write_bytes(b"junk")
        says = ["damaged cannot be loaded as a SavedModel", "export it again"]
        refused("predict", *some, "--model", "damaged", says=says)

    def test_an_incomplete_bundle_is_refused(
        self, app, exported, own_data, refused, tmp_path
    ):
        some = app.arguments(own_data)[:1]
        for name in (*app.bundle, "model.tflite", "run.py"):
            bundle = shutil.copytree(exported / "edge", tmp_path / "edge")
            (bundle / name).unlink()
            refused("predict", *some, "--model", "edge", says=["--model edge"])
            if name != "run.py":
                (bundle / name).write_bytes(b"\xff junk")
                refused("predict", *some, "--model", "edge", says=["--model edge"])
            shutil.rmtree(bundle)

    def test_a_record_that_does_not_fit_is_refused(self, app, run, refused, tmp_path):
        """The message is about the setting, and the dtype policy is restored."""
        changed = shutil.copytree(run, tmp_path / "changed")
        recorded = read_json(run / "config.json")
        before = keras.config.dtype_policy().name
        for settings, says in (
            ({"epochs": -1}, "error: --epochs -1 must be from"),
            ({"no_setting": 1}, "had the settings no_setting; train"),
            *app.bad_settings,
        ):
            runs.write_json(changed / "config.json", {**recorded, **settings})
            refused("evaluate", "--model", "changed", says=[says])
            assert keras.config.dtype_policy().name == before

    def test_only_a_finished_run_is_exported(self, run, refused, tmp_path):
        refused("export", "--run", "nowhere", says=["--run nowhere", "train first"])
        unfinished = shutil.copytree(run, tmp_path / "unfinished")
        (unfinished / "finished.json").unlink()
        says = ["--run unfinished is not finished", "train command"]
        refused("export", "--run", "unfinished", says=says)

    # The command line and the code.

    def test_commands_print_no_noise(self, app, training, exported, tmp_path):
        assert training.errors == ""
        assert (exported.parent / "errors.txt").read_text() == ""
        figure = ["--figure", tmp_path / "figure.png"]
        figures = ["--figures", tmp_path / "figures"]
        for command in (
            ["predict", "--model", training.run, *figure],
            ["evaluate", "--model", exported / "edge", *figures],
        ):
            result = run_alone(app.name, *command)
            assert (result.status, result.err) == (0, "")

    def test_an_export_goes_into_the_run_unless_named(self, app, monkeypatch):
        calls = []

        def export(run, to, *options):
            calls.append((run, to, options[-1]))
            return to / "1"

        monkeypatch.setattr(app.module("export"), "export", export)
        succeed(app.name, "export", "--run", "mine")
        succeed(app.name, "export", "--run", "mine", "--to", "models", "--replace")
        assert calls == [
            (Path("mine"), Path("mine/export"), False),
            (Path("mine"), Path("models"), True),
        ]

    def test_help_lists_every_setting_without_tensorflow(self, app):
        done = subprocess.run(
            [
                sys.executable,
                "-X",
                "importtime",
                "-m",
                f"apps.{app.name}",
                "train",
                "-h",
            ],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        for field in dataclasses.fields(app.config_class):
            assert flag(field.name) in done.stdout
        for group in ("data", "model", "training", "output"):
            assert f" {group} options " in done.stdout
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
        assert not {"tensorflow", "keras"} & imported

    def test_the_verbs_have_the_same_first_parameters_everywhere(self, app):
        for module, name, parameters in (
            ("train", "train", ["config", "run"]),
            ("evaluate", "evaluate", ["model", "data", "split"]),
            ("export", "export", ["run", "to", "variants"]),
            ("data", "load_examples", ["config", "held_out"]),
            ("data", "load_split", ["config", "split", "is_other_data", "held_out"]),
            ("signatures", "load_run", ["run"]),
            ("signatures", "load_model", ["where", "signature"]),
        ):
            function = getattr(app.module(module), name)
            assert list(inspect.signature(function).parameters)[: len(parameters)] == (
                parameters
            )

    # The released model.

    def test_the_released_program_is_that_of_the_application(self, app):
        program = ROOT / "apps" / app.name / "edge.py"
        assert (released(app) / "edge/run.py").read_text() == program.read_text()

    def test_the_released_model_has_the_documented_signatures(self, app):
        assert signature_names(released(app) / "1") == app.exported_signatures

    def test_the_released_card_keeps_the_promises(self, app):
        card = read_json(released(app) / "card.json")
        rows = {row["engine"]: row for row in card["engines"]}
        for engine, least in app.released.items():
            for name, value in least.items():
                assert rows[engine][name] >= value
        assert app.config_class(**tuples(card["config"]))
        assert card["limits"] == app.limits
        assert release.size_mb([released(app)]) <= app.max_released_mb
        link = released(app) / "edge" / f"{recommended(card)}.tflite"
        assert link.readlink() == Path("model.tflite")

    def test_the_released_model_answers_in_stock_tensorflow(
        self, app, own_data, tmp_path
    ):
        requests = {
            signature: {"two": as_array(app.good_inputs(signature, own_data)[:2])}
            for signature, (input_name, _) in app.exported_signatures.items()
            # Some inputs suit the model of the short training alone.
            if signature != "tensors" and input_name not in app.good
        }
        model = released(app) / "1"
        for signature, answers in ask_stock_tensorflow(
            app, model, requests, tmp_path
        ).items():
            assert set(answers["two"]) == app.exported_signatures[signature][1]
            assert all(len(value) == 2 for value in answers["two"].values())


class ImageAppContract(AppContract):
    """The checks of applications that read images."""

    def test_photographs_are_turned_upright_by_five_engines(self, app, run, exported):
        # Other tests began trainings, which deletes the tokenizers of loaded models.
        load = app.module("signatures").load_model
        load_model = functools.cache(lambda *arguments: load(*map(str, arguments)))
        photographs, upright, stored = oriented_photographs()
        with serve(app.name, exported / "1") as addresses:
            engines = {"trained model": run, **exported_engines(exported, addresses)}
            for signature in set(app.signatures) - {"tensors"}:
                expected = load_model(run, signature)(upright)
                for engine, where in engines.items():
                    answers = load_model(where, signature)(photographs)
                    app.check_alike(answers, expected, engine, signature)
                answers = load_model(run, signature)(stored)
                assert any(
                    not np.array_equal(answers[name], value)
                    for name, value in expected.items()
                )


class TextAppContract(AppContract):
    """The checks of applications that read texts."""

    def test_texts_come_before_those_of_a_file(self, app, run, own_data, tmp_path):
        first, *others = app.arguments(own_data)
        (tmp_path / "texts.txt").write_text("\n\n".join(others) + "\n", "utf-8")
        out = succeed(
            *(app.name, "predict", first, "--file", tmp_path / "texts.txt"),
            *("--model", run, "--figure", tmp_path / "figure.png"),
        )
        check_lines(out.splitlines(), app.answers)

    def test_texts_on_standard_input_can_be_read(
        self, app, run, own_data, tmp_path, monkeypatch
    ):
        content = "\n".join(app.arguments(own_data)).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        out = succeed(
            *(app.name, "predict", "--file", "-", "--model", run),
            *("--figure", tmp_path / "figure.png"),
        )
        check_lines(out.splitlines(), app.answers)

    def test_files_of_texts_that_cannot_be_read_are_refused(
        self, run, refused, tmp_path, monkeypatch
    ):
        (tmp_path / "empty.txt").write_text("\n \n")
        (tmp_path / "latin.txt").write_bytes(b"so\ncaf\xe9\n")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
        for file, says in (
            ("nowhere.txt", ["--file nowhere.txt", "No such file"]),
            (".", ["--file .", "Is a directory"]),
            ("empty.txt", ["--file empty.txt has no text"]),
            ("latin.txt", ["--file latin.txt, line 2 is not UTF-8"]),
            ("-", ["standard input has no text"]),
        ):
            refused("predict", "--model", run, "--file", file, says=says)

    def test_lines_that_are_not_utf8_are_refused_on_a_device(self, device):
        bundle, python = device
        done = subprocess.run(
            [python, bundle / "run.py", "-"],
            input=b"so\ncaf\xe9\n",
            capture_output=True,
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(b"error: line 2 is not UTF-8")

    def test_blank_lines_keep_their_place(
        self, app, exported, device, own_data, tmp_path
    ):
        bundle, python = device
        first, second, *_ = app.arguments(own_data)
        content = f"\ufeff{first}\r\n\n \n{second}\n\n".encode()
        (tmp_path / "texts.txt").write_bytes(content)
        out = succeed(
            *(app.name, "predict", "--file", tmp_path / "texts.txt"),
            *("--model", exported / "1", "--figure", tmp_path / "figure.png"),
        )
        done = subprocess.run(
            [python, bundle / "run.py", "-"],
            input=content,
            capture_output=True,
            check=True,
        )
        for lines in (out.splitlines()[:-1], done.stdout.decode().splitlines()):
            assert [bool(line) for line in lines] == [True, False, False, True, False]

    def test_a_text_of_unknown_words_is_reported(self, app, run, own_data, tmp_path):
        some = app.arguments(own_data)[0]
        flags = ["--model", run, "--figure", tmp_path / "figure.png"]
        result = run_app(app.name, "predict", some, "Привет, мир", *flags)
        assert result.status == 0
        assert result.err.startswith('text 2, "Привет, мир": ')
        assert "tokens are unknown to the model" in result.err


def unreadable_texts(folder):
    """Returns the field `unreadable` of an `App` whose inputs are texts."""
    empty = "a text is empty; write at least one word"
    not_utf8 = b"caf\xe9".decode(errors="surrogateescape")
    return [
        ([" "], "text 1 is empty", empty),
        (["so", " \n\t"], "text 2 is empty", empty),
        (["-"], None, empty),
        (["so", not_utf8], "text 2 is not UTF-8", "text 2 is not UTF-8"),
    ]


def unreadable_images(folder):
    """Returns the field `unreadable` of an `App` whose inputs are images."""
    (folder / "text.jpg").write_text("no image")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), "uint8")
    whole = tf.io.encode_jpeg(pixels).numpy()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(pixels).save(folder / "web.webp")
    Image.fromarray(pixels).convert("P").save(folder / "palette.bmp")
    says = {
        "web.webp": "is a WEBP image; convert it to JPEG or PNG",
        "palette.bmp": "is a BMP image with a palette; convert it to PNG",
    }
    return [
        (["text.jpg"], "text.jpg is not an image", "text.jpg cannot be read as an"),
        (
            ["truncated.jpg"],
            "truncated.jpg is damaged or truncated",
            "truncated.jpg cannot be read as an image",
        ),
        (["nowhere.jpg"], "nowhere.jpg cannot be read", "nowhere.jpg cannot be read"),
        *(([name], f"{name} {text}", text) for name, text in says.items()),
    ]


def bad_texts(limits):
    """Returns texts that are answered with an error, and a part of each error."""
    max_bytes = limits["max_text_bytes"]
    texts = [
        (b"caf\xe9", "is not UTF-8"),
        (max_bytes // 2 * b"a " + b"b", f"more than {max_bytes} bytes"),
        (18_000 * b"a ", f"more than {max_bytes} bytes"),
    ]
    if "max_word_letters" in limits:
        number = limits["max_word_letters"]
        error = f"a word has more than {number} letters"
        texts.append((b"so " + (number + 1) * "é".encode(), error))
    return texts


def bad_images():
    """Returns images that are answered with an error, and a part of each error."""
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 30, 3), "uint8")
    )
    png = encode(image, "PNG")
    return [
        *((file, "damaged") for file in (png[: len(png) // 2], png[:20])),
        *((file, "is no JPEG, PNG, GIF or BMP file") for file in (b"", b"no image")),
        (encode(image, "WEBP"), "is no JPEG, PNG, GIF or BMP file"),
        (encode(image.convert("P"), "BMP"), "BMP file with a palette"),
        (malformed_requests.huge_png(), "has 12000 × 12000 pixels"),
    ]


def bad_audio():
    """Returns recordings that are answered with an error, and a part of each error."""
    good = malformed_requests.wav(bytes(1000))
    return [
        *((file, "is no WAV file") for file in (b"", b"no audio", good[:20])),
        (malformed_requests.wav(bytes(1000), code=6, bits=8), "is compressed"),
        (malformed_requests.wav(bytes(1000), rate=100), "sampling rate must be from"),
        (malformed_requests.wav(bytes(6000), channels=50), "1 to 32 channels"),
        (malformed_requests.wav(b""), "has no samples"),
        (malformed_requests.wav(bytes(2 * 8000 * 61)), "longer than 60 seconds"),
    ]


def bad_tensors(tensors, input_name):
    """Returns inputs of `tensors` that are answered with an error, with a part of it.

    Each is a good one with one value replaced.
    """
    values, part = [-1, 256, np.nan, np.inf], "must be from 0 to 255"
    if input_name == "samples":
        values, part = [-1.5, 2, np.nan, np.inf], "must be from -1 to 1"
    if tensors.dtype == "int32":
        values, part = [-1, 2**31 - 1], "a token id is not from "
    pairs = []
    for value in values:
        bad = tensors[0].copy()
        bad.flat[0] = value
        pairs.append((bad, part))
    return pairs


def oriented_photographs():
    """Returns one image as a camera stores it in each orientation.

    Returns:
        JPEG files of all orientations (Exif), the same images turned upright, and the
        same images as they are stored; the last two as PNG files.
    """
    pixels = np.full((48, 80, 3), (40, 60, 200), "uint8")
    pixels[:, :40] = (200, 50, 40)
    pixels[:10, :30] = (50, 180, 60)
    photographs, upright, stored = [], [], []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        photographs.append(encode(Image.fromarray(pixels), "JPEG", exif=exif))
        with Image.open(io.BytesIO(photographs[-1])) as image:
            upright.append(encode(ImageOps.exif_transpose(image), "PNG"))
            stored.append(encode(Image.fromarray(np.asarray(image)), "PNG"))
    return photographs, upright, stored


def encode(image, format, **options):
    """Returns the file of an image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def names(folder):
    """Returns the names of what lies in a folder."""
    return {path.name for path in folder.iterdir()}


def copy(data, folder):
    """Copies a data set, a file or a folder, into a folder."""
    if data.is_dir():
        return shutil.copytree(data, folder / data.name)
    return Path(shutil.copy(data, folder))


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def tuples(settings):
    """Returns settings from JSON, with tuples instead of lists."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in settings.items()
    }


def check_lines(lines, patterns):
    """Checks that every pattern matches a line, in this order."""
    rest = iter(lines)
    for pattern in patterns:
        assert any(re.search(pattern, line) for line in rest), (pattern, lines)


def recommended(card):
    """Returns the recommended variant of a card."""
    return re.search(r"on a device: (\w+)", card["recommended"])[1]


def exported_engines(exported, addresses):
    """Returns the places of an exported model, by engine."""
    return {
        "SavedModel": exported / "1",
        "float32": float32(exported),
        "REST": addresses[0],
        "gRPC": addresses[1],
    }


def float32(exported):
    """Returns the bundle's variant of single precision."""
    path = exported / "edge/float32.tflite"
    return path if path.exists() else exported / "edge/model.tflite"


def run_on_device(device, *arguments, folder):
    """Runs the program of a bundle in a folder; gives it empty lines to read."""
    bundle, python = device
    return subprocess.run(
        [python, bundle / "run.py", *map(str, arguments)],
        input="\n \n",
        capture_output=True,
        text=True,
        cwd=folder,
    )


def signature_names(saved_model):
    """Returns the input and the outputs of each signature of a SavedModel."""
    content = saved_model_pb2.SavedModel.FromString(
        (saved_model / "saved_model.pb").read_bytes()
    )
    names = {}
    for name, signature in content.meta_graphs[0].signature_def.items():
        if not name.startswith("__"):
            (input_name,) = signature.inputs
            names[name] = input_name, set(signature.outputs)
    return names


@functools.cache
def documented_signatures():
    """Returns the signatures in the table of `saved_models/README.md`, by model."""
    rows = re.findall(
        r"^\| (?:\[(\w+)\]\(.*?\))? ?\| (.*?) \| (.*?) \| (.*?) \|$",
        (ROOT / "saved_models/README.md").read_text(),
        re.MULTILINE,
    )
    documented, model = {}, None
    for name, *cells in rows:
        model = name or model
        signatures, inputs, outputs = (re.findall(r"`(\w+)`", cell) for cell in cells)
        if model and len(inputs) == 1:
            for signature in signatures:
                documented.setdefault(model, {})[signature] = inputs[0], set(outputs)
    return documented


def released(app):
    return ROOT / "saved_models" / app.name


# The process imports nothing of ours, so the graph has no operation of ours.
STOCK = """
import pickle
import {imports}
import sys
import tensorflow as tf

with open("requests.pickle", "rb") as file:
    requests = pickle.load(file)
loaded = tf.saved_model.load(sys.argv[1])
for signature, inputs in requests.items():
    function = loaded.signatures[signature]
    (spec,) = function.structured_input_signature[1].values()
    for name, value in inputs.items():
        try:
            outputs = function(**{{spec.name: tf.constant(value, spec.dtype)}})
            inputs[name] = {{key: each.numpy() for key, each in outputs.items()}}
        except tf.errors.InvalidArgumentError as error:
            inputs[name] = error.message
assert not {{"apps", "layers", "keras_nlp", "keras_hub"}} & set(sys.modules)
with open("answers.pickle", "wb") as file:
    pickle.dump(requests, file)
"""


def ask_stock_tensorflow(app, saved_model, requests, folder):
    """Answers requests to a SavedModel in a process without our code.

    Args:
        app: The `App`.
        saved_model: The directory of the SavedModel.
        requests: Inputs by name, for each signature.
        folder: For the files of the process.

    Returns:
        The same with the answers, or with the message if a request is refused.
    """
    (folder / "requests.pickle").write_bytes(pickle.dumps(requests))
    program = STOCK.format(imports=app.stock_imports)
    subprocess.run([sys.executable, "-c", program, saved_model], cwd=folder, check=True)
    return pickle.loads((folder / "answers.pickle").read_bytes())


def server_requests(app, signature, data):
    """Returns requests to a signature of an exported model, by name."""
    good = as_array(app.good_inputs(signature, data))
    inputs, _ = mixture(app, signature, data)
    half, most = len(inputs) // 2, max_inputs(app, signature)
    requests = {
        "good": good,
        "mixture": inputs,
        "first half": inputs[:half],
        "second half": inputs[half:],
        **{f"alone {i}": inputs[i : i + 1] for i in range(len(inputs))},
        "no inputs": inputs[:0],
        "empty list": inputs[:0].reshape(0),
        "max_inputs": np.repeat(good[:1], most, axis=0),
        "too many": np.repeat(good[:1], most + 1, axis=0),
    }
    if app.exported_signatures[signature][0] == "token_ids":
        requests["too long"] = np.full((1, app.limits["max_tokens"] + 1), 5, "int32")
    return requests


def max_inputs(app, signature):
    """Returns how many inputs a request to a signature may have."""
    return limits.MAX_INPUTS if signature == "about" else app.limits["max_inputs"]


def mixture(app, signature, data):
    """Returns good and bad inputs, shuffled, and parts of the errors of each."""
    pairs = [(each, "") for each in app.good_inputs(signature, data)]
    pairs += app.bad_inputs(signature)
    order = np.random.default_rng(0).permutation(len(pairs))
    inputs, errors = zip(*(pairs[i] for i in order), strict=True)
    return as_array(inputs), errors


def as_array(inputs):
    """Returns an array of inputs: texts, encoded images, or numbers of one shape.

    A list is a row of texts.
    """
    is_text = isinstance(inputs[0], str | bytes | list)
    return np.array(inputs, object if is_text else None)


def check_joined(parts, whole):
    """Checks that the answers of several requests, joined, are those of one request."""
    for name, expected in whole.items():
        value = np.concatenate([part[name] for part in parts])
        assert value.dtype == expected.dtype
        if name == "attention" and expected.dtype == object:
            value, expected = (
                np.concatenate([np.array(text.split(), float) for text in texts])
                for texts in (value, expected)
            )
        if expected.dtype == object:
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            np.testing.assert_allclose(value, expected, atol=1e-5, err_msg=name)

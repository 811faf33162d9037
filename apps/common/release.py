"""The release recipe: export a run, measure every engine, check, publish.

saved_models/<app>/
├── 1/                a SavedModel; the number is its version
├── edge/             what a device needs: model.tflite and the program that runs it;
│                     the variant in model.tflite has its own name too, as a link
├── card.md           the measurements of the files beside it
├── card.json         the same for programs; every version keeps its own
└── held_out.json     the ids of the examples that the training held out

Everything is made and measured in a staging directory and then renamed. A model that
breaks a bound is never published.
"""

import dataclasses
import fcntl
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from apps.common import baselines, datasets, limits, lite, runs, saved_models
from apps.common.errors import BadInput, ExportRefused
from apps.common.lite import Bundle
from apps.common.predictors import Predictor, application_name
from apps.common.saved_models import Served

Row = dict[str, Any]  # The measurements of one engine.


class Exam(NamedTuple):
    """How engines are measured, and the bounds that they must keep.

    Attributes:
        load_model: Returns the predictor of a model, as `signatures.load_model` does.
        measure: Function of a predictor and of the trained model's answers, which are
            None for the trained model itself. Returns the measurements by name, and the
            answers.
        raw_input: One input, for the latency.
        difference: The measurement that compares an engine with the trained model.
        bounds: The largest difference allowed, by engine.
        metric: The measurement of quality.
        max_loss: How much worse than the SavedModel a variant may be.
        higher_is_better: Whether a larger value of the metric is better.
    """

    load_model: Callable[[str], Predictor]
    measure: Callable[[Predictor, Any], tuple[Row, Any]]
    raw_input: Any
    difference: str
    bounds: Mapping[str, float]
    metric: str
    max_loss: float
    higher_is_better: bool = True


class Card(NamedTuple):
    """The texts of a model card.

    Attributes:
        name: The heading.
        description: The model, in a sentence.
        unit: What an example is called, in the plural.
        recommendation: Why the recommended variant is good enough; it continues
            "… is the leanest variant".
        signatures: Inputs and outputs of the signatures.
        config: The configuration of the training.
        files_setting: The setting that is a path, or several; cards show the file names
            alone.
        num_examples: The number of examples, by split.
        classes: The names of the classes, if there are any.
        facts: Further paragraphs, by heading.
        limits: The limits of the signatures, by name.
        confidence: The score from which on answers are shown, if the application has
            such a threshold.
    """

    name: str
    description: str
    unit: str
    recommendation: str
    signatures: str
    config: Any
    files_setting: str
    num_examples: Mapping[str, int]
    classes: Sequence[str] = ()
    facts: Mapping[str, str] = {}
    limits: Mapping[str, int] = {}
    confidence: float | None = None


def release(
    run: Path,
    to: Path,
    variants: Sequence[str],
    served: Served,
    bundle: Bundle,
    exam: Exam,
    card: Card,
    replace: bool = False,
    more: Callable[[Path, Path], Sequence[Row]] | None = None,
) -> Path:
    """Publishes a run as the next version of a served model, with an edge bundle.

    All engines are measured on the test split first. An engine that exceeds its bound
    stops the export. Variants that lose too much are left out; the leanest that remains
    becomes the bundle's `model.tflite`.

    Args:
        run: A finished run.
        to: The directory that TensorFlow Serving reads, such as `saved_models/APP`.
        variants: The variants for the bundle, of `lite.VARIANTS`.
        served: The SavedModel.
        bundle: The edge bundle.
        exam: How engines are measured.
        card: The texts of the card.
        replace: Whether the model may replace one of other classes or other data.
        more: Measures further engines, given the SavedModel and the bundle.

    Returns:
        The directory of the version.

    Raises:
        BadInput: Another export is writing to the same directory, or another model is
            served from it.
        ExportRefused: An engine broke a bound, or no variant is good enough.
    """
    variants = list(dict.fromkeys(variants))
    if not replace:
        check_same_task(to, card)
    with staging(to) as stage:
        version = next_version(to)
        saved_model, edge = stage / version, stage / "edge"
        about = describe(run, card, version)
        served = with_about(served, about)
        saved_models.save(served, saved_model)
        saved_models.write_warm_up(saved_model, about["application"], served)
        operations = lite.write_bundle(bundle, edge, variants)
        rows = measure_engines(engines(run, saved_model, edge, variants), exam)
        check_bounds(rows, exam)
        recommended = recommend(edge, rows, variants, exam)
        if more:
            rows += more(saved_model, edge)
        write_card(stage, card, about, run, rows, recommended, operations[recommended])
        publish(stage, to, version, runs.read_held_out(run))
    return to / version


def describe(run: Path, card: Card, version: str) -> dict[str, Any]:
    """Returns what an exported model says of itself, as `predictors.about` lists it."""
    return {
        "application": application_name(type(card.config)),
        "name": card.name,
        "version": int(version),
        "classes": list(card.classes),
        "config": card_config(card.config, card.files_setting),
        "limits": dict(card.limits),
        **({} if card.confidence is None else {"confidence": card.confidence}),
        "training": training_facts(run, card),
        "signatures": (
            f"{card.signatures} `about`: `question` (any text) → `about`, a JSON "
            "object that says what is served."
        ),
    }


def with_about(served: Served, about: Mapping[str, Any]) -> Served:
    """Adds the signature `about`, with its warm-up value, to a SavedModel.

    It answers each question, whatever its text, with the same JSON object.

    Args:
        served: The SavedModel.
        about: From `describe`.
    """
    text = json.dumps(about, ensure_ascii=False)

    def answer(question):
        question = limits.check_shape(question, "question", [None], [limits.MAX_INPUTS])
        return {"about": tf.fill(tf.shape(question), text)}

    spec = tf.TensorSpec([None], tf.string, name="question")
    signature = tf.function(answer, input_signature=[spec])
    return served._replace(
        signatures={**served.signatures, "about": signature},
        warm_up={**served.warm_up, "about": ["What do you serve?"]},
    )


def check_same_task(directory: Path, card: Card) -> None:
    """Checks that a directory serves no model of other classes or of other data.

    Its clients would get other answers.

    Raises:
        BadInput: It does.
    """
    if not (directory / "card.json").exists():
        return
    served = json.loads((directory / "card.json").read_text())
    data = served["config"]["data"]
    if served["name"] == card.name and datasets.is_same(data, card.config.data):
        return
    raise BadInput(
        f"{directory} serves '{served['name']}', trained on {data}, and this is "
        f"'{card.name}', trained on {card.config.data}; pass another directory as "
        "--to, or add --replace"
    )


@contextmanager
def staging(directory: Path) -> Iterator[Path]:
    """Makes a directory to export into, and removes it afterwards.

    It lies in the directory where the export is published, so that publishing is a
    rename. Files that a killed export left in it are removed.

    Raises:
        BadInput: Another export is using it.
    """
    stage = directory / ".export"
    stage.mkdir(parents=True, exist_ok=True)
    lock = os.open(stage, os.O_RDONLY)  # The system frees it when a process is killed.
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"another export is writing to {directory}; wait until it has finished"
            ) from error
        _empty(stage)
        try:
            yield stage
        finally:
            shutil.rmtree(stage)
            if not any(directory.iterdir()):
                directory.rmdir()
    finally:
        os.close(lock)


def _empty(folder):
    """Removes everything in a folder."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def next_version(directory: Path) -> str:
    """Returns the number of the version to be published."""
    versions = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    return str(max(versions, default=0) + 1)


def engines(
    run: Path, saved_model: Path, bundle: Path, variants: Sequence[str]
) -> dict[str, tuple[Path, Sequence[Path]]]:
    """Returns the engines of an export: the trained model, the SavedModel, variants.

    Returns:
        For each name, where the model is, and the files that it consists of.
    """
    return {
        "trained model": (run, [run / "model.keras"]),
        "SavedModel": (saved_model, [saved_model]),
        **{
            variant: (bundle / f"{variant}.tflite", [bundle / f"{variant}.tflite"])
            for variant in variants
        },
    }


def measure_engines(
    engines: Mapping[str, tuple[Path, Sequence[Path]]], exam: Exam
) -> list[Row]:
    """Measures several engines; the others are compared with the first.

    Args:
        engines: For each name, where the model is, and its files.
        exam: How engines are measured.

    Returns:
        One row per engine: its name, the measurements, size and latency.
    """
    rows, reference = [], None
    for name, (where, files) in engines.items():
        predictor = exam.load_model(str(where))
        measurements, answers = exam.measure(predictor, reference)
        reference = answers if reference is None else reference
        rows.append(
            {
                "engine": name,
                **measurements,
                "size_MB": size_mb(files),
                "latency_ms": latency_ms(predictor, exam.raw_input),
            }
        )
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def check_bounds(rows: Sequence[Row], exam: Exam) -> None:
    """Checks that engines answer as the trained model does.

    Raises:
        ExportRefused: The difference of an engine exceeds its bound, or is NaN.
    """
    for row in rows:
        bound = exam.bounds.get(row["engine"])
        # Written so that NaN fails too.
        if bound is not None and not row[exam.difference] <= bound:
            raise ExportRefused(
                f"the {row['engine']} model differs from the trained one: "
                f"{exam.difference.replace('_', ' ')} {row[exam.difference]} is more "
                f"than {bound}; nothing was published"
            )


def is_good(value: float, reference: float, exam: Exam) -> bool:
    """Returns whether a value of the metric is close enough to that of the SavedModel.

    NaN never is.
    """
    loss = reference - value if exam.higher_is_better else value - reference
    return loss <= exam.max_loss


def recommend(
    bundle: Path, rows: Sequence[Row], variants: Sequence[str], exam: Exam
) -> str:
    """Renames the leanest good variant to `model.tflite`, and removes bad ones.

    A link with the variant's own name leads to it.

    `int8` is the leanest: it runs on every accelerator. `dynamic_range` is as small but
    computes in floats.

    Args:
        bundle: The directory of the `.tflite` files.
        rows: From `measure_engines`.
        variants: The variants in the bundle.
        exam: Gives the metric and how much of it a variant may lose.

    Returns:
        The recommended variant.

    Raises:
        ExportRefused: No variant is good enough.
    """
    values = {row["engine"]: row[exam.metric] for row in rows}
    good = [
        variant
        for variant in variants
        if is_good(values[variant], values["SavedModel"], exam)
    ]
    if not good:
        raise ExportRefused(
            f"none of {', '.join(variants)} comes within {exam.max_loss} of the "
            f"SavedModel's {exam.metric.replace('_', ' ')}; add --variants float32"
        )
    recommended = max(good, key=lite.VARIANTS.index)
    for variant in variants:
        file = bundle / f"{variant}.tflite"
        if variant == recommended:
            file.rename(bundle / "model.tflite")
            file.symlink_to("model.tflite")
        elif variant not in good:
            file.unlink()
    return recommended


def latency_ms(
    predictor: Predictor, raw_input: Any, num_repetitions: int = 30
) -> float:
    """Returns the median milliseconds from one raw input to its answer."""
    seconds = []
    predictor([raw_input])
    for _ in range(num_repetitions):
        start = time.perf_counter()
        predictor([raw_input])
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 2)


def size_mb(paths: Sequence[Path]) -> float:
    """Returns the size of files, and of all files in directories, in 10⁶ bytes.

    Links in directories are left out.
    """
    files = [
        file
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path.resolve()])
        if file.is_file() and not file.is_symlink()
    ]
    return round(sum(file.stat().st_size for file in files) / 1e6, 2)


def write_card(
    stage: Path,
    card: Card,
    about: Mapping[str, Any],
    run: Path,
    rows: Sequence[Row],
    recommended: str,
    operations: Mapping[str, int],
) -> None:
    """Writes `card.json`, and `card.md` from it.

    Args:
        stage: The directory to write to.
        card: The texts.
        about: From `describe`.
        run: The run that is exported.
        rows: From `measure_engines`.
        recommended: The recommended variant.
        operations: The number of its operations of each kind.
    """
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    baseline = baselines.read(str(run))
    facts = {
        "Signatures": about["signatures"],
        **({"Limits": limits_facts(card)} if card.limits else {}),
        "Training": about["training"],
        **({"Baseline": baseline_facts(baseline, card)} if baseline else {}),
        **card.facts,
        "Data and licence": f"`{data_name(card.config)}`: {card.config.data_licence}.",
        "Operations of the recommended model": ", ".join(
            f"{name} {count}" for name, count in sorted(operations.items())
        ),
    }
    content: dict[str, Any] = {
        "application": about["application"],
        "name": about["name"],
        "version": about["version"],
        "description": (
            f"{card.description} Every row was scored by `python -m "
            f"apps.{about['application']} evaluate` on the same "
            f"{card.num_examples['test']} test {card.unit}. They took no part in "
            "training or in the choice of the epoch."
        ),
        "engines": list(rows),
        "baseline": baseline,
        "recommended": (
            f"Recommended on a device: {recommended}, as `edge/model.tflite`; "
            f"`edge/{recommended}.tflite` is a link to it. It is the leanest variant "
            f"{card.recommendation}."
        ),
        "facts": facts,
        "operations": operations,
        "classes": about["classes"],
        "config": about["config"],
        "limits": about["limits"],
        **{name: about[name] for name in ("confidence",) if name in about},
        "machine": machine,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
    }
    runs.write_json(stage / "card.json", content)
    columns = list(rows[0])
    table = [[str(row[column]) for column in columns] for row in rows]
    lines = [
        f"# {card.name}",
        "",
        content["description"],
        "",
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        content["recommended"],
        "",
        f"Latency is the median from one raw input to its answer on {machine}.",
    ]
    for heading, text in facts.items():
        lines += ["", f"## {heading}", "", text]
    shown = {**content["config"], "data": data_name(card.config)}
    settings = json.dumps(shown, indent=2, ensure_ascii=False)
    lines += ["", "## Configuration", "", "```json", settings, "```", ""]
    (stage / "card.md").write_text("\n".join(lines))


def training_facts(run: Path, card: Card) -> str:
    """Returns how the model was trained, in sentences."""
    summary = runs.require_finished(run)
    metrics = ", ".join(
        f"{name.removeprefix('val_').replace('_', ' ')} {value:.4f}"
        for name, value in summary.items()
        if name.startswith("val_")
    )
    chosen = f"The last of {summary['epochs']} epochs was kept"
    if metrics:
        chosen = (
            f"Epoch {summary['best_epoch']} of {summary['epochs']} was kept; on "
            f"{card.num_examples['validation']} validation {card.unit} it has {metrics}"
        )
    return (
        f"Trained on {card.num_examples['train']} {card.unit}, seed "
        f"{card.config.seed}, in {summary['minutes']} minutes. {chosen}."
    )


def limits_facts(card: Card) -> str:
    """Returns the limits of the signatures, as a list."""
    lines = [f"- `{name}`: {value:,}" for name, value in card.limits.items()]
    return "\n".join(
        ["Larger requests, and single inputs that are larger, are refused.", "", *lines]
    )


def baseline_facts(baseline: Mapping[str, Any], card: Card) -> str:
    """Returns the scores of the baseline, in a sentence."""
    return (
        f"On the same {card.num_examples['test']} test {card.unit}: "
        f"{baselines.describe(baseline, 'test')}."
    )


def data_name(config: Any) -> str:
    """Returns what a card calls the data: the last name of an absolute path."""
    path = Path(config.data)
    return path.name if path.is_absolute() else config.data


def card_config(config: Any, files_setting: str) -> dict[str, Any]:
    """Returns the settings for a card, without the folders of pretrained files.

    The path of the data stays, so that `evaluate` finds it.

    Args:
        config: The configuration.
        files_setting: The setting that is the path of a file, or several paths.
    """
    value = getattr(config, files_setting)
    if isinstance(value, tuple):
        value = tuple(Path(path).name for path in value)
    elif value:
        value = Path(value).name
    return {**dataclasses.asdict(config), files_setting: value}


def publish(
    stage: Path, directory: Path, version: str, held_out: Mapping[str, Any]
) -> None:
    """Moves a checked export into place by renaming; the version comes last.

    Args:
        stage: From `staging`, with `edge`, `card.json`, `card.md` and the version.
        directory: Where to publish.
        version: The name of the version's directory.
        held_out: The ids of held-out examples, as `runs.read_held_out` returns them.
    """
    runs.write_json(stage / "held_out.json", held_out)
    records = stage / version / "assets.extra"
    for name in ("card.json", "held_out.json"):
        shutil.copyfile(stage / name, records / name)
    published = directory / "edge"
    if published.exists():
        os.rename(published, stage / "replaced")
    os.rename(stage / "edge", published)
    for name in ("card.json", "card.md", "held_out.json", version):
        os.replace(stage / name, directory / name)

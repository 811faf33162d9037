"""Writes models the way TensorFlow Serving and TensorFlow Lite read them.

saved_models/<app>/
├── 1/                a SavedModel; the number is its version
├── edge/             what a device needs: model.tflite and the program that runs it
├── card.md           what was measured, of the very files beside it
└── card.json         the same for programs

Everything is made and checked in a staging directory first, so that what does not hold
its promises is never published.
"""

import dataclasses
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from apps.common import runs
from apps.common.errors import BadInput, ExportRefused

# TensorFlow Lite models, the leanest last.
VARIANTS = ("float32", "float16", "dynamic_range", "int8")
REQUIREMENTS = ("ai-edge-litert>=2.3,<3", "numpy>=2")  # Of every bundle.
# Operations that the stock model server does not run.
UNSERVABLE_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "XlaCallModule"}


@contextmanager
def staging(directory: Path):
    """Makes a directory to export into; it vanishes, whatever happens.

    Args:
        directory: Where the export will be published. The staging directory lies beside
            its contents, so that publishing is a rename.
    """
    directory.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".export-", dir=directory))
    try:
        yield stage
    finally:
        shutil.rmtree(stage)
        if not any(directory.iterdir()):
            directory.rmdir()


def fold_batch_normalization(model):
    """Returns a model that computes the same with fewer steps and variables.

    At inference batch normalization is a scale and a shift of each channel, which the
    convolution right before it can take over: `kernel * scale` and `bias + shift`.

    Args:
        model: A functional Keras model; models inside it are folded too.
    """
    users = Counter(id(tensor) for tensor in model.outputs)
    for operation in model.operations:
        users.update(id(tensor) for tensor in keras.tree.flatten(operation.input))
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    producers = {
        id(layer.output): layer
        for layer in model.layers
        if isinstance(layer, convolutions)
        and layer.activation is keras.activations.linear
        and users[id(layer.output)] == 1
    }
    folds = {
        producers[id(layer.input)].name: layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and id(layer.input) in producers
    }
    folded_names = {layer.name for layer in folds.values()}

    def clone(layer):
        if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
            return fold_batch_normalization(layer)
        if layer.name in folds:
            return type(layer).from_config({**layer.get_config(), "use_bias": True})
        return layer

    def call(layer, inputs, *arguments, **options):
        if layer.name in folded_names:
            return inputs
        return layer(inputs, *arguments, **options)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for name, normalization in folds.items():
        kernel, *bias = model.get_layer(name).get_weights()
        scale = 1 / np.sqrt(normalization.moving_variance + normalization.epsilon)
        if normalization.scale:
            scale *= normalization.gamma
        shift = ((bias[0] if bias else 0) - normalization.moving_mean) * scale
        if normalization.center:
            shift += normalization.beta
        layer = folded.get_layer(name)
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            scale = scale.reshape(kernel.shape[2:])
        layer.set_weights([kernel * scale, shift])
    return folded


def save(variables, signatures, path: Path, half=False, resources=()):
    """Writes a SavedModel and checks that a stock server can run it.

    Args:
        variables: The Keras variables that the signatures use.
        signatures: `tf.function`s with an `input_signature`, by name.
        path: The directory to write.
        half: Whether to store the variables in half precision. The graph computes in
            single precision all the same. A signature must not call another one then.
        resources: What else the signatures use, such as tokenizers of keras-nlp.

    Raises:
        ExportRefused: The graph holds operations that the server does not run.
    """
    # Only the variables are saved; a Keras model would bring copies of its graph along.
    root = tf.Module()
    root.resources = list(resources)
    root.model_variables = [variable.value for variable in variables]
    if half:
        root.model_variables = [
            tf.Variable(tf.cast(value, tf.float16)) for value in root.model_variables
        ]
        signatures = {
            name: _from_half(signature, variables, root.model_variables)
            for name, signature in signatures.items()
        }
    tf.saved_model.save(root, str(path), signatures=signatures)
    unservable = operations(path) & UNSERVABLE_OPERATIONS
    if unservable:
        raise ExportRefused(
            f"the graph contains {', '.join(sorted(unservable))}, which TensorFlow "
            "Serving cannot run; write that step with TensorFlow operations"
        )


def _from_half(signature, variables, halves):
    """Returns a signature that reads its variables from others of half precision."""

    def call(*inputs):
        values = [
            (variable, tf.cast(half, variable.dtype))
            for variable, half in zip(variables, halves, strict=True)
        ]
        with keras.StatelessScope(values):
            return signature.python_function(*inputs)

    return tf.function(call, input_signature=signature.input_signature)


def operations(saved_model: Path):
    """Returns the names of all operations in a SavedModel and its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel.FromString(
        (saved_model / "saved_model.pb").read_bytes()
    )
    names = set()
    for graph in content.meta_graphs:
        names |= {node.op for node in graph.graph_def.node}
        for function in graph.graph_def.library.function:
            names |= {node.op for node in function.node_def}
    return names


def write_warm_up(saved_model: Path, model_name, requests):
    """Writes requests that the server answers before it takes others.

    They spare the first client the slow first call, and keep a server from loading a
    version whose variables have not arrived yet.

    Args:
        saved_model: The SavedModel directory.
        model_name: The name under which it is served.
        requests: For each signature, its inputs as `TensorProto`s by name.

    Raises:
        BadInput: The `serve` extra is not installed.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError as error:
        raise BadInput(
            "warm-up requests need tensorflow-serving-api: pip install "
            "'keras-apps[serve]'"
        ) from error

    folder = saved_model / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(value)
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def convert(variables, signature, path: Path, variant, examples=None):
    """Writes a `.tflite` file that runs with TensorFlow Lite's own operations.

    Args:
        variables: The Keras variables that the signature uses.
        signature: A `tf.function` whose `input_signature` has static shapes, or several
            by name.
        path: The file to write.
        variant: `float32`, `float16` (weights of half precision), `dynamic_range`
            (8-bit weights) or `int8` (8-bit weights and activations; inputs and outputs
            stay float32).
        examples: For `int8`: a list of arrays by input name, from the training data.

    Returns:
        The number of operations of each kind.

    Raises:
        ExportRefused: The graph needs operations that no Lite interpreter has.
    """
    if not isinstance(signature, dict):
        signature = {"serving_default": signature}
    with tempfile.TemporaryDirectory() as folder:
        save(variables, signature, Path(folder))
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        # Otherwise the converter falls back to operations that need a delegate, which
        # no interpreter package brings along, and reports success.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if variant != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if variant == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if variant == "int8":
            converter.representative_dataset = lambda: iter(examples)
        try:
            with warnings.catch_warnings(action="ignore"):  # Of the converter's own.
                content = converter.convert()
        except Exception as error:
            raise ExportRefused(
                f"TensorFlow Lite cannot express the {variant} model: "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    path.write_bytes(content)
    counts = lite_operations(content)
    foreign = [name for name in counts if name.startswith(("Flex", "CUSTOM"))]
    if foreign:
        raise ExportRefused(
            f"the {variant} model contains {', '.join(foreign)}, which no Lite "
            "interpreter has; replace that layer"
        )
    return counts


def write_bundle(
    folder: Path,
    program,
    requirement,
    labels,
    variables,
    signature,
    variants,
    examples=None,
):
    """Writes what a device needs: the model's variants, labels, program, requirements.

    Args:
        folder: An empty directory.
        program: The file that becomes `run.py`.
        requirement: What the program needs besides `REQUIREMENTS`, as pip names it.
        labels: The lines of `labels.txt`; without any there is no such file.
        variables: As for `convert`.
        signature: As for `convert`.
        variants: The variants of the model.
        examples: As for `convert`.

    Returns:
        The operations of each variant and their numbers.
    """
    if labels:
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
    (folder / "requirements.txt").write_text(
        "\n".join([*REQUIREMENTS, requirement, ""])
    )
    shutil.copyfile(program, folder / "run.py")
    return {
        variant: convert(
            variables, signature, folder / f"{variant}.tflite", variant, examples
        )
        for variant in variants
    }


def lite_operations(content):
    """Counts the operations of a `.tflite` file, by name."""
    model = schema.Model.GetRootAs(content)
    builtin = {
        number: name
        for name, number in vars(schema.BuiltinOperator).items()
        if not name.startswith("_")
    }
    names = []
    for i in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(i)
        custom = code.CustomCode()
        names.append(custom.decode() if custom else builtin[code.BuiltinCode()])
    return Counter(
        names[graph.Operators(i).OpcodeIndex()]
        for graph in map(model.Subgraphs, range(model.SubgraphsLength()))
        for i in range(graph.OperatorsLength())
    )


def exported_engines(run: Path, saved_model: Path, bundle: Path, variants):
    """Returns the trained model, the exported one and the variants for devices.

    Returns:
        By name: where the model is, and the file or directory that it consists of.
    """
    return {
        "trained model": (run, run / "model.keras"),
        "SavedModel": (saved_model, saved_model),
        **{variant: (bundle / f"{variant}.tflite",) * 2 for variant in variants},
    }


def measure_engines(engines, load, measure, raw_input):
    """Measures several engines alike.

    Args:
        engines: As from `exported_engines`; the others are compared with the first.
        load: A function from where a model is to its predictor.
        measure: A function of a predictor and a reference, None at first, to a
            dictionary of measurements and the reference for the next predictor.
        raw_input: One input, to measure the latency by.

    Returns:
        One row of measurements per engine.
    """
    rows, reference = [], None
    for name, (where, files) in engines.items():
        predictor = load(str(where))
        measurements, reference = measure(predictor, reference)
        rows.append(
            {
                "engine": name,
                **measurements,
                "size_MB": size_mb(files),
                "latency_ms": latency_ms(predictor, raw_input),
            }
        )
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()))
    return rows


def check(engines, difference, bounds):
    """Holds the exact engines to their promises.

    Args:
        engines: From `measure_engines`.
        difference: The measurement that is bounded.
        bounds: The largest value of each engine that is exact.

    Raises:
        ExportRefused: One of them answers differently from the trained model.
    """
    for row in engines:
        bound = bounds.get(row["engine"])
        # Written so that NaN fails too.
        if bound is not None and not row[difference] <= bound:
            raise ExportRefused(
                f"the {row['engine']} model differs from the trained one: "
                f"{difference.replace('_', ' ')} {row[difference]}, more than {bound}; "
                "nothing was published"
            )


def accurate(engines, variants, metric, loss):
    """Returns the variants that lose at most `loss` against the SavedModel."""
    values = {row["engine"]: row[metric] for row in engines}
    return [
        variant
        for variant in variants
        if values[variant] >= values["SavedModel"] - loss
    ]


def recommend(bundle: Path, engines, variants, metric, loss):
    """Names the leanest accurate variant `model.tflite`, drops those that fell short.

    `int8` needs whole numbers only and runs on every accelerator; `dynamic_range` is as
    small but computes in floats.

    Args:
        bundle: The directory of the `.tflite` files.
        engines: From `measure_engines`.
        variants: The variants in it.
        metric: The measurement that tells their quality.
        loss: How much of it a variant may lose against the SavedModel.

    Returns:
        The recommended variant.

    Raises:
        ExportRefused: No variant is good enough.
    """
    good = accurate(engines, variants, metric, loss)
    if not good:
        raise ExportRefused(
            f"none of {', '.join(variants)} comes within {loss} of the SavedModel's "
            f"{metric.replace('_', ' ')}; add --variants float32"
        )
    best = max(good, key=VARIANTS.index)
    for variant in variants:
        file = bundle / f"{variant}.tflite"
        if variant == best:
            file.rename(bundle / "model.tflite")
        elif variant not in good:
            file.unlink()
    return best


def card_config(config, files):
    """Returns the settings for a card, without the folders of this machine.

    Args:
        config: The configuration.
        files: The name of the setting that is the path of a file, or several paths.
    """
    value = getattr(config, files)
    if isinstance(value, tuple):
        value = tuple(Path(path).name for path in value)
    elif value:
        value = Path(value).name
    return {**dataclasses.asdict(config), files: value}


def latency_ms(predictor, raw_input, repetitions=30):
    """Returns the median milliseconds from one raw input to its answer."""
    seconds = []
    predictor([raw_input])
    for _ in range(repetitions):
        start = time.perf_counter()
        predictor([raw_input])
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 2)


def size_mb(path: Path):
    """Returns the size of a file or of all files in a directory, in 10⁶ bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6, 2)


def next_version(directory: Path):
    """Returns the number of the version to be published."""
    versions = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    return max(versions, default=0) + 1


def publish(stage: Path, directory: Path, version):
    """Moves a checked export into place by renaming; the version comes last.

    Args:
        stage: From `staging`, holding `edge`, `card.json`, `card.md` and the version.
        directory: Where to publish.
        version: The name of the version's directory.
    """
    published = directory / "edge"
    if published.exists():
        os.rename(published, stage / "replaced")
    os.rename(stage / "edge", published)
    for name in ("card.json", "card.md", str(version)):
        os.replace(stage / name, directory / name)


def write_card(stage: Path, card):
    """Writes `card.json`, and `card.md` from it.

    Args:
        stage: The directory to write to.
        card: `name`, `description`, `facts` (sentences by heading), `engines` (one
            dictionary of measurements each, with the same keys), `recommended` (its
            reason), `operations` (their numbers in the recommended model) and `config`.
    """
    card = {
        **card,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
        },
    }
    runs.write_json(stage / "card.json", card)
    columns = list(card["engines"][0])
    rows = [[str(engine[column]) for column in columns] for engine in card["engines"]]
    lines = [
        f"# {card['name']}",
        "",
        card["description"],
        "",
        "| " + " | ".join(column.replace("_", " ") for column in columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        card["recommended"],
        "",
        f"Latency is the median from one raw input to its answer on {card['machine']}.",
    ]
    operations = sorted(card["operations"].items())
    facts = {
        **card["facts"],
        "Operations of the recommended model": ", ".join(
            f"{name} {count}" for name, count in operations
        ),
    }
    for heading, text in facts.items():
        lines += ["", f"## {heading}", "", text]
    lines += ["", "## Configuration", "", "```json"]
    lines += [json.dumps(card["config"], indent=2, ensure_ascii=False), "```", ""]
    (stage / "card.md").write_text("\n".join(lines))

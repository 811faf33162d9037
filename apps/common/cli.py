"""The command line that all applications share: the verbs, and their common flags."""

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import arg

from apps.common.errors import BadInput, ExportRefused, closest

# Flags that several verbs or applications share, with their help texts.
Model = Annotated[
    str,
    arg(
        help="A run, a version such as `saved_models/APP/1`, an edge bundle or one of "
        "its .tflite files, `http://HOST:8501/v1/models/NAME` or "
        "`grpc://HOST:8500/NAME`."
    ),
]
Data = Annotated[
    str | None,
    arg(help="As for `train`. Defaults to what the model was trained on."),
]
Split = Annotated[
    Literal["test", "train", "validation", "all"],
    arg(help="Which part of the data to score."),
]
Json = Annotated[
    bool, arg(help="Print the report as one JSON object on the last line.")
]
Figures = Annotated[
    Path | None,
    arg(
        help="Folder for the figures. Defaults to `evaluation` in a run, and to "
        "`runs/APP/evaluation` for other models."
    ),
]
Figure = Annotated[Path, arg(help="The PNG file to draw.")]
File = Annotated[
    Path | None,
    arg(help="A file with one text per line; `-` reads standard input."),
]
Run = Annotated[Path, arg(help="A run directory, such as `runs/APP/NAME`.")]
To = Annotated[Path, arg(help="Directory of the served model.")]

SUBCOMMAND_STYLE = (tyro.conf.OmitArgPrefixes,)


def main(
    package: str,
    own_data: type,
    presets: Mapping[str, Callable[[], Any]],
    *verbs: Callable,
) -> None:
    """Runs the verb named by the first argument.

    `train` takes the name of a preset before its flags. Without a name it uses the
    defaults of `own_data` if `--data` is given, and otherwise the first preset.

    Args:
        package: The application's package, such as `apps.translation`. Its module
            `train` has the function `train(config, run)`.
        own_data: The application's class of configurations; its defaults suit the
            user's own data.
        presets: Functions that return a configuration, by name.
        *verbs: The verbs besides `train`; their parameters are the flags. They import
            what they need when they are called, so that `--help` answers at once.
    """
    # TensorFlow and Keras read these when they are imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        if sys.argv[1:2] == ["train"]:
            _train(package, own_data, presets, sys.argv[2:])
            return
        commands = {verb.__name__: verb for verb in verbs}
        result: Any = tyro.extras.subcommand_cli_from_dict(
            {"train": train, **commands},
            prog=f"python -m {package}",
            config=SUBCOMMAND_STYLE,
        )
        if sys.argv[1:2] == ["export"]:
            print(f"model: {result}")
            print(f"edge bundle: {result.parent / 'edge'}")
            print(f"card: {result.parent / 'card.md'}")
    except (BadInput, ExportRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def print_json(report: Mapping[str, Any]) -> None:
    """Prints a report as one JSON object on one line."""
    print(json.dumps(report, ensure_ascii=False))


def train() -> None:
    """Train a model; the same command resumes an interrupted training."""
    # A placeholder for `_train` in the list of verbs.


def _train(package, own_data, presets, arguments):
    """Runs `train`, whose defaults depend on the preset and on `--data`."""
    config, name, arguments = _choose_config(arguments, presets, own_data)
    runs = Path("runs") / package.rpartition(".")[2]

    def train_model(
        config: own_data = config,
        run: Annotated[
            Path, arg(help="Directory for checkpoints, logs and figures.")
        ] = runs / name,
    ):
        module = importlib.import_module(f"{package}.train")
        print_summary(module.train(config, run))
        print(f"run: {run}")

    tyro.cli(
        train_model,
        prog=f"python -m {package} train [PRESET]",
        description=_describe_train(presets, name),
        args=arguments,
        config=SUBCOMMAND_STYLE,
    )


def print_summary(summary: Mapping[str, Any]) -> None:
    """Prints the best epoch of a training, its validation metrics and the time.

    Args:
        summary: From `runs.finish`.
    """
    metrics = ", ".join(
        f"{name.removeprefix('val_').replace('_', ' ')} {value:.4f}"
        for name, value in summary.items()
        if name.startswith("val_")
    )
    print(
        f"epoch {summary['best_epoch']} of {summary['epochs']} is kept"
        + (f", with validation {metrics}" if metrics else "")
        + f"; {summary['minutes']} minutes"
    )


def _choose_config(arguments, presets, own_data):
    """Returns the configuration, a name for its run, and the remaining arguments."""
    data_flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data_flag.add_argument("--data")
    data = data_flag.parse_known_args(arguments)[0].data
    run_name = data and _run_name(data)
    if arguments and not arguments[0].startswith("-"):
        preset, *arguments = arguments
        if preset not in presets:
            raise BadInput(f"there is no preset '{preset}'{closest(preset, presets)}")
        config = presets[preset]()
        if data:  # A preset's licence is that of its own data.
            config = dataclasses.replace(config, data_licence="not stated")
        return config, run_name or preset, arguments
    if data:
        return own_data(data), run_name, arguments
    preset = next(iter(presets))
    return presets[preset](), preset, arguments


def _run_name(data):
    """Returns the name of a folder, of a file without its endings, or of a data set."""
    if data.startswith("tfds:"):
        return "".join(letter if letter.isalnum() else "_" for letter in data)
    path = Path(data).resolve()
    return path.name.split(".")[0] if path.is_file() else path.name


def _describe_train(presets, name):
    """Returns the description that `train --help` shows."""
    lines = [
        train.__doc__,
        "",
        "Presets:",
        *(
            f"  {preset}: {make.__doc__.splitlines()[0]}"
            for preset, make in presets.items()
        ),
        "",
        f"The run is {name} unless --run names another.",
    ]
    return "\n".join(lines)

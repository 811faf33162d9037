"""The command line that all applications share: the verbs, and their common flags."""

import argparse
import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import docstring_parser
import tyro
from tyro.conf import arg

import apps
from apps.common import noise
from apps.common.errors import BadInput, closest, reported
from apps.common.ranges import check_ranges

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
To = Annotated[
    Path | None,
    arg(
        help="Directory of the served model, such as `saved_models/APP`. Defaults to "
        "`export` in the run."
    ),
]
Replace = Annotated[
    bool,
    arg(help="Replace a model of other classes, or of another data set."),
]

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
            user's own data. Comments such as `# Training` between its fields begin the
            groups of flags that `train --help` shows.
        presets: Functions that return a configuration, by name; the built-in data set
            first.
        *verbs: The verbs besides `train`; their parameters are the flags, which may
            have ranges. They import what they need when they are called, so that
            `--help` answers at once.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with reported():
            if sys.argv[1:] == ["--version"]:
                print(apps.version())
            elif sys.argv[1:2] == ["train"]:
                _train(package, own_data, presets, sys.argv[2:])
            else:
                _run_verb(package, verbs)
    except KeyboardInterrupt as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Impatience changes nothing.
        print(f"\n{stop}" if stop.args else "\nstopped", file=sys.stderr)
        sys.exit(130)


def _run_verb(package, verbs):
    """Runs any verb but `train`."""

    def quiet(verb):
        @functools.wraps(verb)
        def run(*arguments, **flags):
            check_ranges(
                verb, inspect.signature(verb).bind(*arguments, **flags).arguments
            )
            noise.import_tensorflow()
            return verb(*arguments, **flags)

        return run

    result = tyro.extras.subcommand_cli_from_dict(
        {"train": train, **{verb.__name__: quiet(verb) for verb in verbs}},
        prog=f"python -m {package}",
        description=f"{sys.modules[package].__doc__} --version shows the version.",
        config=SUBCOMMAND_STYLE,
    )
    if sys.argv[1:2] == ["export"]:
        print(f"model: {result}")
        print(f"edge bundle: {result.parent / 'edge'}")
        print(f"card: {result.parent / 'card.md'}")


def print_json(report: Mapping[str, Any]) -> None:
    """Prints a report as one JSON object on one line."""
    print(json.dumps(report, ensure_ascii=False))


def train() -> None:
    """Train a model; the same command resumes an interrupted training."""
    # A placeholder for `_train` in the list of verbs.


def _train(package, own_data, presets, arguments):
    """Runs `train`, whose defaults depend on the preset and on `--data`."""
    config, name, note, arguments = _choose_config(arguments, presets, own_data)
    chosen = tyro.cli(
        _flags_class(config, Path("runs") / package.rpartition(".")[2] / name),
        prog=f"python -m {package} train [PRESET]",
        description=_describe_train(own_data, presets, note),
        args=arguments,
        config=SUBCOMMAND_STYLE,
    )
    values = {k: v for group in vars(chosen).values() for k, v in vars(group).items()}
    run = values.pop("run")
    for name, value in values.items():
        # Absolute, like `data`, so that the model finds its data from anywhere.
        if value and name.endswith(("_data", "_file", "_folder")):
            values[name] = os.path.abspath(value)
    config = dataclasses.replace(config, **values)
    noise.import_tensorflow()
    module = importlib.import_module(f"{package}.train")
    runs = importlib.import_module("apps.common.runs")
    try:
        with runs.locked(run):
            print_summary(module.train(config, run))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(runs.describe_stop(run, *stop.args)) from None
    print(f"run: {run}")


def _flags_class(config, run):
    """Returns a class of dataclasses, one for each group of the flags of `train`.

    The groups are those of the settings, and `output`.

    Args:
        config: Gives the settings and their defaults.
        run: The default of `--run`.
    """
    settings = type(config)
    hints = get_type_hints(settings, include_extras=True)
    documented = docstring_parser.parse_from_object(settings).params
    texts = {each.arg_name: " ".join(each.description.split()) for each in documented}
    groups = {}
    for name, group in _setting_groups(settings).items():
        hint = Annotated[hints[name], arg(help=texts[name])]
        default = dataclasses.field(default=getattr(config, name))
        groups.setdefault(group, []).append((name, hint, default))
    help_of_run = arg(help="Directory for checkpoints, logs and figures.")
    groups["output"] = [
        ("run", Annotated[Path, help_of_run], dataclasses.field(default=run))
    ]
    classes = {
        name: dataclasses.make_dataclass(name, fields)
        for name, fields in groups.items()
    }
    return dataclasses.make_dataclass(
        "Flags",
        [
            (name, made, dataclasses.field(default_factory=made))
            for name, made in classes.items()
        ],
    )


def _setting_groups(settings):
    """Returns the group of each setting.

    A comment such as `# Training` between the settings begins a group.
    """
    names = {field.name for field in dataclasses.fields(settings)}
    groups, group = {}, "settings"
    for line in inspect.getsource(settings).splitlines():
        if comment := re.fullmatch(r" +# (\w+)", line):
            group = comment[1].lower()
        elif (setting := re.match(r" +(\w+): ", line)) and setting[1] in names:
            groups[setting[1]] = group
    return groups


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
    """Chooses the defaults of `train`.

    Returns:
        The configuration, a name for its run, a sentence about the defaults, and the
        arguments that remain.
    """
    data_flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    data_flag.add_argument("--data")
    flags, arguments = data_flag.parse_known_args(arguments)
    data = flags.data
    preset = next(iter(presets))
    if data is not None:
        run_name = _run_name(data)
        if data != presets[preset]().data and Path(data).exists():
            data = os.path.abspath(data)
    if arguments and not arguments[0].startswith("-"):
        preset, *arguments = arguments
        if preset not in presets:
            raise BadInput(f"there is no preset '{preset}'{closest(preset, presets)}")
    elif data is not None:
        note = "The defaults shown are those for your own data."
        return own_data(data), run_name, note, arguments
    config, note = presets[preset](), f"The defaults shown are those of {preset}."
    if data is None:
        note += " Add --data to see those for your own data."
        return config, preset, note, arguments
    # A preset's licence is that of its own data.
    config = dataclasses.replace(config, data=data, data_licence="not stated")
    return config, run_name, note, arguments


def _run_name(data):
    """Returns the name of a folder, of a file without its endings, or of a data set."""
    if data.startswith("tfds:"):
        return "".join(letter if letter.isalnum() else "_" for letter in data)
    path = Path(data).resolve()
    return path.name.split(".")[0] if path.is_file() else path.name


def _describe_train(own_data, presets, note):
    """Returns the description that `train --help` shows."""
    lines = [
        inspect.getdoc(own_data).splitlines()[0],
        "The same command resumes an interrupted training.",
        "",
        "Presets:",
        *(
            f"  {preset}: {make.__doc__.splitlines()[0]}"
            for preset, make in presets.items()
        ),
        "",
        note,
    ]
    return "\n".join(lines)

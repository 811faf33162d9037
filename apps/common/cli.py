"""Turns an application's functions into its command line."""

import argparse
import dataclasses
import difflib
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import tyro

from apps.common.errors import BadInput, ExportRefused


def main(application: str, train: Callable, *others: Callable, presets, own_data):
    """Runs the command named by the first argument; its parameters are the flags.

    `train` takes the name of a preset as well, before the flags. Without one the first
    preset is meant, or the defaults of `own_data` where `--data` names somebody's own.

    Args:
        application: The name of the package in `apps`.
        train: The function `train(config, run)`.
        *others: The other commands.
        presets: Functions that return a configuration, by name.
        own_data: The class of the configuration; its defaults suit data of one's own.
    """
    # Quiet start-up; both must be set before TensorFlow or Keras is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    program = f"python -m apps.{application}"
    try:
        if sys.argv[1:2] == ["train"]:
            config, name, arguments = _choose_config(sys.argv[2:], presets, own_data)
            run = Path("runs") / application / name
            tyro.cli(
                functools.partial(train, config=config, run=run),
                prog=f"{program} train [PRESET]",
                description=_describe(train, presets, name),
                args=arguments,
                config=(tyro.conf.OmitArgPrefixes,),
            )
        else:
            tyro.extras.subcommand_cli_from_dict(
                {command.__name__: command for command in (train, *others)},
                prog=program,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except (BadInput, ExportRefused) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)


def closest(name: str, names) -> str:
    """Returns `"; did you mean 'flowers'?"`, or the choices if none is close."""
    names = list(names)
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean '{matches[0]}'?"
    return "; choose from: " + ", ".join(names)


def flag(name: str) -> str:
    """Returns how a setting is called on the command line."""
    return "--" + name.replace("_", "-")


def check_ranges(config, **ranges):
    """Checks that numbers of a configuration lie where they can work.

    Args:
        config: The configuration; what is None in it is not checked.
        **ranges: The least and the most of each setting.

    Raises:
        BadInput: One lies outside.
    """
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            raise BadInput(f"{flag(name)} {value} must be from {least} to {most}")


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


def _describe(train, presets, name):
    lines = [train.__doc__.split("Args:")[0].strip(), "", "Presets:"]
    lines += [
        f"  {preset}: {make.__doc__.splitlines()[0]}"
        for preset, make in presets.items()
    ]
    lines += ["", f"The run is {name} unless --run names another."]
    return "\n".join(lines)

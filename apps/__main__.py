"""Lists the applications: python -m apps"""

import argparse
import importlib
from pathlib import Path

import apps
from apps.common.errors import reported

GO_ON = """
python -m apps.NAME --help           shows the commands of an application
python -m apps.NAME train --help     shows its settings
python -m apps.NAME train            trains it on its built-in data set
python -m apps.NAME train --data X   trains it on your own data
"""


def main() -> None:
    """Prints one line for each application, and how to go on."""
    parser = argparse.ArgumentParser(
        prog="python -m apps", description="Lists the applications."
    )
    parser.add_argument("--version", action="version", version=apps.version())
    parser.parse_args()
    for path in sorted(Path(__file__).parent.glob("*/__main__.py")):
        name = path.parent.name
        print(f"{name:22} {importlib.import_module(f'apps.{name}').__doc__}")
    print(GO_ON, end="")


if __name__ == "__main__":
    with reported():
        main()

"""python -m apps.face_synthesis {train,evaluate,predict,export} --help."""

from apps.common import cli
from apps.face_synthesis.config import CONFIGS, Config

if __name__ == "__main__":
    cli.main(__package__, Config, CONFIGS)

import pytest

from apps.image_classification.config import Config
from apps.image_classification.export import export
from apps.image_classification.train import train


@pytest.fixture(scope="session")
def run(photos, tmp_path_factory):
    """A training on the made-up photos."""
    config = Config(
        data=str(photos),
        image_size=24,
        backbone="small_resnet",
        weights=None,
        epochs=10,
        learning_rate=3e-3,
        batch_size=8,
    )
    directory = tmp_path_factory.mktemp("runs") / "photos"
    train(config, directory)
    return directory


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    """The directory of the exported model."""
    directory = tmp_path_factory.mktemp("saved_models") / "image_classification"
    export(run, directory)
    return directory

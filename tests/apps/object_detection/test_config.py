import pytest

from apps.common.errors import BadInput
from apps.object_detection.config import CONFIGS, Config


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (50, 90)}, "--image-size 50 90 must be multiples of 32, such"),
        ({"image_size": (0, 64)}, "--image-size 0 must be from 32"),
        ({"scale": (2.0, 1.0)}, "--scale 2.0 1.0 must be in order, the smaller first"),
        ({"mosaic": 1.5}, "--mosaic 1.5 must be from 0"),
        ({"num_bins": 1}, "--num-bins 1 must be from 2"),
        ({"iou": 1.0}, "--iou 1.0 must be from 0"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(BadInput, match=message):
        Config("", **settings)

import pytest

from apps.common.errors import BadInput
from apps.semantic_segmentation.config import (
    CONFIGS,
    Config,
    class_color,
    class_name,
    crf_settings,
)
from layers import DenseCRF


@pytest.mark.parametrize(
    ("entry", "name", "color"),
    [
        ("road", "road", None),
        ("road #804080", "road", "#804080"),
        ("traffic  light   #00FF7f", "traffic  light", "#00FF7f"),
        ("lane #2", "lane #2", None),
    ],
)
def test_names_and_colors_of_classes(entry, name, color):
    assert (class_name(entry), class_color(entry)) == (name, color)


@pytest.mark.parametrize("preset", CONFIGS)
def test_presets_are_described(preset):
    assert len(CONFIGS[preset].__doc__) > 30
    assert isinstance(CONFIGS[preset](), Config)


def test_crf_settings_are_arguments_of_the_layer():
    config = Config("", iterations=3, color_sigma=7.0, compatibility="learned")
    crf = DenseCRF(**crf_settings(config))
    assert (crf.iterations, crf.color_sigma, crf.compatibility) == (3, 7, "learned")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": (50, 90)}, "--image-size 50 90 must be multiples of 32, such"),
        ({"crop": (64, 100)}, "--crop 64 100 must be multiples of 32, such as 64 96"),
        ({"crop": (0, 64)}, "--crop 0 must be from 32"),
        ({"scale": (2.0, 1.0)}, "--scale 2.0 1.0 must be in order, the smaller first"),
        (
            {"patience": 3, "validation_prefix": "none"},
            "--patience needs validation images; remove it or --validation-prefix none",
        ),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(BadInput, match=message):
        Config("", **settings)

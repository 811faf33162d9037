import io
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from apps.common import images
from apps.common.errors import BadInput
from apps.image_classification import edge
from apps.semantic_segmentation.edge import prepare

RNG = np.random.default_rng(0)
RGB = RNG.normal((120, 90, 60), 40, (45, 61, 3)).clip(0, 255).astype("uint8")
RAMP = np.linspace(0, 65535, 61 * 45).reshape(45, 61).astype("uint16")
ALPHA = RNG.integers(0, 256, (45, 61, 1), "uint8")


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


ENCODED = {
    "jpeg": encode(Image.fromarray(RGB), "JPEG"),
    "grey jpeg": encode(Image.fromarray(RGB).convert("L"), "JPEG"),
    "cmyk jpeg": encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "progressive jpeg": encode(Image.fromarray(RGB), "JPEG", progressive=True),
    "png": encode(Image.fromarray(RGB), "PNG"),
    "grey png": encode(Image.fromarray(RGB).convert("L"), "PNG"),
    "16-bit png": encode(Image.fromarray(RAMP), "PNG"),
    "palette png": encode(Image.fromarray(RGB).convert("P"), "PNG"),
    "transparent png": encode(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"),
    "transparent grey png": encode(
        Image.fromarray(np.dstack([RGB[..., :1], ALPHA])), "PNG"
    ),
    "transparent palette png": encode(
        Image.fromarray(RGB).convert("P"), "PNG", transparency=3
    ),
    "black and white png": encode(Image.fromarray(RGB).convert("1"), "PNG"),
    "gif": encode(Image.fromarray(RGB), "GIF"),
    "bmp": encode(Image.fromarray(RGB), "BMP"),
}


@pytest.mark.parametrize("kind", ENCODED)
def test_the_graph_and_the_device_decode_alike(kind):
    encoded = ENCODED[kind]
    assert images.why_unreadable(encoded) is None
    decode = tf.function(images.decode_image)
    served = decode(encoded).numpy()
    assert served.shape == (45, 61, 3)
    for size in (16, 45, 100):  # Smaller, about as large, larger.
        resized = images.resize_image(served, size).numpy()
        on_device = edge.prepare(encoded, size)[0]
        # Blending in 8 bits rounds to the nearest grey level, as do CMYK's products.
        tolerance = 1.01 if "transparent" in kind or "cmyk" in kind else 0.01
        np.testing.assert_allclose(resized, on_device, atol=tolerance)


def test_a_lossless_image_is_decoded_exactly():
    np.testing.assert_array_equal(images.decode_image(ENCODED["png"]), RGB)
    sixteen = images.decode_image(ENCODED["16-bit png"])
    np.testing.assert_array_equal(sixteen[..., 0], RAMP >> 8)


def test_transparency_is_laid_on_white():
    clear = np.dstack([RGB, np.zeros_like(ALPHA)])
    decoded = images.decode_image(encode(Image.fromarray(clear), "PNG"))
    np.testing.assert_array_equal(decoded, np.full_like(RGB, 255))


HEIGHT, WIDTH = 48, 64


def round_half_up(fraction):
    return max(1, int(fraction + Fraction(1, 2)))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (45, 61),
        (90, 30),  # Portrait.
        (5, 7),
        (150, 211),
        (500, 499),
        (48, 64),
        (24, 32),
        (1, 200),
        (200, 1),
        (32, 51),  # 40.16 rows.
        (96, 37),  # 18.5 columns.
    ],
)
def test_images_are_fitted_alike_by_the_graph_pillow_and_the_device(rows, columns):
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns, 3), "uint8")
    if Fraction(rows, columns) > Fraction(HEIGHT, WIDTH):
        inner = HEIGHT, round_half_up(Fraction(columns * HEIGHT, rows))
    else:
        inner = round_half_up(Fraction(rows * WIDTH, columns)), WIDTH
    channels = [
        Image.fromarray(pixels[..., i].astype("float32")).resize(
            inner[::-1], Image.Resampling.BILINEAR
        )
        for i in range(3)
    ]
    expected = np.full((HEIGHT, WIDTH, 3), 127.5, "float32")
    expected[: inner[0], : inner[1]] = np.stack(channels, axis=-1)

    fitted, size = tf.function(images.fit_image)(
        tf.constant(pixels, tf.float32), HEIGHT, WIDTH
    )
    assert tuple(map(int, size)) == inner
    np.testing.assert_allclose(fitted, expected, atol=0.01)
    encoded = encode(Image.fromarray(pixels), "PNG")
    on_device, size_there, whole = prepare(encoded, HEIGHT, WIDTH)
    assert (tuple(size_there), tuple(whole)) == (inner, (rows, columns))
    assert (on_device.shape, on_device.dtype) == ((1, HEIGHT, WIDTH, 3), "float32")
    np.testing.assert_allclose(on_device[0], fitted, atol=0.01)


@pytest.mark.parametrize("kind", ENCODED)
def test_the_graph_and_the_device_fit_alike(kind):
    decoded = images.decode_image(ENCODED[kind])
    fitted, _ = images.fit_image(decoded, HEIGHT, WIDTH)
    tolerance = 1.01 if "transparent" in kind or "cmyk" in kind else 0.01
    on_device = prepare(ENCODED[kind], HEIGHT, WIDTH)[0][0]
    np.testing.assert_allclose(fitted, on_device, atol=tolerance)


def saturation(pixels):
    highest, lowest = pixels.max(axis=-1), pixels.min(axis=-1)
    return (highest - lowest) / np.maximum(highest, 1)


COLORFUL = np.random.default_rng(2).choice([40.0, 120.0, 200.0], (64, 1, 1, 3))
COLORFUL = np.broadcast_to(COLORFUL, (64, 8, 8, 3)).astype("float32")


def test_color_jitter_of_no_strength_changes_nothing():
    unchanged = images.color_jitter(0.0, seed=0)(COLORFUL, training=True)
    np.testing.assert_allclose(unchanged, COLORFUL, atol=0.01)


def test_color_jitter_keeps_colors_colorful_on_the_whole():
    jittered = images.color_jitter(0.3, seed=0)(COLORFUL, training=True).numpy()
    assert jittered.min() >= 0
    assert jittered.max() <= 255
    before, after = saturation(COLORFUL), saturation(jittered)
    assert after.mean() == pytest.approx(before.mean(), rel=0.2)
    # Some became paler, some stronger.
    colorful = before > 0
    changes = (after - before)[colorful]
    assert changes.min() < -0.05
    assert changes.max() > 0.05
    brightness = jittered.mean(axis=(1, 2, 3)) / COLORFUL.mean(axis=(1, 2, 3))
    assert brightness.std() > 0.03


def test_reading_refuses_what_is_no_whole_image(tmp_path, monkeypatch):
    def problem(name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=name) as error:
            images.read_image(tmp_path / name)
        return str(error.value)

    assert "not an image" in problem("text.jpg", b"no image")
    assert "not an image" in problem("empty.jpg", b"")
    assert "truncated" in problem("cut.jpg", ENCODED["jpeg"][:-200])
    assert "truncated" in problem("cut.png", ENCODED["png"][:-200])
    assert "TIFF" in problem("tiff.jpg", encode(Image.fromarray(RGB), "TIFF"))
    with pytest.raises(BadInput, match=r"nowhere\.jpg cannot be read: No such"):
        images.read_image(tmp_path / "nowhere.jpg")
    # Pillow forgives these, TensorFlow does not.
    assert "truncated" in problem("end.jpg", ENCODED["jpeg"][:-2])
    assert "truncated" in problem("end.png", ENCODED["png"][:-12])
    palette = encode(Image.fromarray(RGB).convert("P"), "BMP")
    assert "palette" in problem("palette.bmp", palette)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "more than" in problem("huge.jpg", ENCODED["jpeg"])


@pytest.mark.parametrize("cached", [True, False])
def test_examples_are_loaded_cached_and_shuffled(cached):
    loads = []

    def load(number):
        def record(value):
            loads.append(int(value))
            return value

        return tf.ensure_shape(tf.py_function(record, [number], tf.int64), ())

    def epochs(seed):
        num_bytes = images.MAX_CACHE_BYTES + (0 if cached else 1)
        dataset = images.load_and_shuffle(
            tf.data.Dataset.range(20), load, num_bytes, seed
        )
        return [[int(each) for each in dataset] for _ in range(2)]

    assert epochs(seed=None) == [list(range(20))] * 2
    assert len(loads) == (20 if cached else 40)
    first, second = epochs(seed=3)
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert epochs(seed=3) == [first, second]


def test_the_readable_images_of_a_folder(tmp_path):
    for name in ("b.PNG", "a.jpg", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(ENCODED["png"])
    (tmp_path / "cut.jpeg").write_bytes(ENCODED["jpeg"][:300])
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    paths = images.list_images(tmp_path)
    assert [path.name for path in paths] == [
        "a.jpg",
        "b.PNG",
        "cut.jpeg",
        "dangling.jpg",
    ]
    is_readable, problems = images.find_readable(paths)
    assert is_readable.tolist() == [True, True, False, False]
    assert len(problems) == 2
    assert "cut.jpeg is damaged or truncated" in problems[0]
    assert "dangling.jpg cannot be read: No such file" in problems[1]

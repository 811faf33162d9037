import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from apps.common import image_headers, images
from apps.common.errors import BadInput
from apps.image_classification import edge
from apps.semantic_segmentation import edge as segmentation_edge
from apps.semantic_segmentation.edge import prepare
from tests.apps.common.photographs import (
    ORIENTATION,
    RGB,
    RNG,
    SHORT,
    encode,
    exif,
    photograph,
    turn,
)

RAMP = np.linspace(0, 65535, 61 * 45).reshape(45, 61).astype("uint16")
ALPHA = RNG.integers(0, 256, (45, 61, 1), "uint8")
ROWS, COLUMNS = np.indices((45, 61))
SMOOTH = np.stack([4 * COLUMNS, 5 * ROWS, 255 - 4 * COLUMNS], axis=-1).astype("uint8")


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
    # Smaller, about as large, larger.
    for size, how in ((16, "crop"), (45, "pad"), (100, "squash")):
        resized = images.resize_image(served, size, how).numpy()
        on_device = edge.prepare(encoded, size, how)[0]
        # CMYK's products are rounded in 8 bits.
        tolerance = 1.01 if "cmyk" in kind else 0.01
        np.testing.assert_allclose(resized, on_device, atol=tolerance)


def test_a_lossless_image_is_decoded_exactly():
    np.testing.assert_array_equal(images.decode_image(ENCODED["png"]), RGB)
    sixteen = images.decode_image(ENCODED["16-bit png"])
    np.testing.assert_array_equal(sixteen[..., 0], RAMP >> 8)


def test_transparency_is_laid_on_white():
    clear = np.dstack([RGB, np.zeros_like(ALPHA)])
    decoded = images.decode_image(encode(Image.fromarray(clear), "PNG"))
    np.testing.assert_array_equal(decoded, np.full_like(RGB, 255))
    # Every opacity of every colour.
    opacities, colors = np.indices((256, 256)).astype("uint8")
    for channels in (
        [colors, opacities],
        [colors, colors ^ 85, 255 - colors, opacities],
    ):
        encoded = encode(Image.fromarray(np.dstack(channels)), "PNG")
        decoded = images.decode_image(encoded)
        assert decoded.dtype == tf.uint8
        np.testing.assert_array_equal(decoded, edge.decode(encoded))
        np.testing.assert_array_equal(decoded, segmentation_edge.decode(encoded))


def make_decode_each():
    """Returns a function that decodes the files of a request.

    It returns a square from the centre of each image, and the errors.
    """
    decode = tf.function(
        lambda files: images.decode_each(
            files,
            lambda image: [tf.image.resize_with_crop_or_pad(image, 20, 20)],
            [tf.TensorSpec([20, 20, 3], tf.uint8)],
        ),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )

    def decode_each(files):
        (pixels,), errors = decode(tf.constant(files, tf.string))
        return pixels.numpy(), [error.decode() for error in errors.numpy()]

    return decode_each


def test_a_damaged_image_does_not_stop_the_others():
    good = [*ENCODED.values(), *(photograph(orientation) for orientation in (3, 6))]
    bad = {
        **{each[: len(each) // 2]: "damaged or truncated" for each in ENCODED.values()},
        **{each[:20]: "damaged or truncated" for each in ENCODED.values()},
        **dict.fromkeys((b"", b"no image"), "is no JPEG, PNG, GIF or BMP file"),
        encode(Image.fromarray(RGB), "WEBP"): "is no JPEG, PNG, GIF or BMP file",
        encode(Image.fromarray(RGB).convert("P"), "BMP"): "a BMP file with a palette",
    }
    files = [*good, *bad]
    decode_each = make_decode_each()
    order = np.random.default_rng(0).permutation(len(files))
    pixels, errors = decode_each([files[i] for i in order])
    for i, decoded, error in zip(order, pixels, errors, strict=True):
        if files[i] in bad:
            assert bad[files[i]] in error
        else:
            assert error == ""
            image = images.decode_image(files[i])
            expected = tf.image.resize_with_crop_or_pad(image, 20, 20)
            np.testing.assert_array_equal(decoded, expected)
            # Alone it is decoded alike.
            np.testing.assert_array_equal(decode_each([files[i]])[0][0], expected)
    assert set(decode_each(good)[1]) == {""}
    assert decode_each([])[0].shape == (0, 20, 20, 3)


def test_large_images_and_slow_files_are_not_decoded(monkeypatch):
    png, jpeg = ENCODED["png"], ENCODED["progressive jpeg"]
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 45 * 61)
    assert make_decode_each()([png, jpeg])[1] == ["", ""]
    work = image_headers.MAX_SCANS * (45 * 61 - 1)
    monkeypatch.setattr(image_headers, "MAX_PIXELS", 45 * 61 - 1)
    monkeypatch.setattr(image_headers, "MAX_JPEG_WORK", work)
    monkeypatch.setattr(images, "MAX_JPEG_WORK", work)
    large = "the image has 61 × 45 pixels; make it smaller than 2,744 pixels"
    pixels, errors = make_decode_each()(
        [png, jpeg, encode(Image.new("L", (9, 9)), "PNG")]
    )
    assert errors == [large, large, ""]
    # Grey, and the padding.
    assert set(np.unique(pixels[:2])) == {0, 128}


def test_prepared_pixels_are_checked():
    good = np.random.default_rng(0).uniform(0, 255, (6, 4, 5, 3)).astype("float32")
    good[0, 0, 0], good[1, 3, 4] = 0, 255
    pixels, errors = images.check_pixels(tf.constant(good), [4, 5])
    np.testing.assert_array_equal(pixels, good)
    assert errors.numpy().tolist() == [b""] * 6
    spoiled = good.copy()
    for i, value in enumerate((np.nan, np.inf, -np.inf, -1e-3, 255.01)):
        spoiled[i, i % 4, i % 5, i % 3] = value
    pixels, errors = images.check_pixels(tf.constant(spoiled), [4, 5])
    assert errors.numpy().tolist() == [b"the pixels must be from 0 to 255"] * 5 + [b""]
    np.testing.assert_array_equal(pixels[:5], np.zeros((5, 4, 5, 3)))
    np.testing.assert_array_equal(pixels[5], good[5])
    for size, max_inputs in (((4, 4), 6), ((4, 5), 5)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="images must have"):
            images.check_pixels(tf.constant(good), size, max_inputs)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright_by_the_graph_and_the_devices(orientation):
    encoded = photograph(orientation)
    with Image.open(io.BytesIO(encoded)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    assert upright.shape[:2] == ((45, 61) if orientation < 5 else (61, 45))
    np.testing.assert_array_equal(images.decode_image(encoded), upright)
    np.testing.assert_array_equal(segmentation_edge.decode(encoded), upright)
    np.testing.assert_array_equal(edge.decode(encoded), upright)
    assert images.upright_size(encoded) == upright.shape[1::-1]


def test_a_batch_of_photographs_is_turned_one_by_one():
    encoded = [photograph(orientation) for orientation in range(1, 9)]
    decode = tf.function(
        lambda batch: tf.map_fn(
            lambda each: images.resize_image(images.decode_image(each), 16, "squash"),
            batch,
            fn_output_signature=tf.TensorSpec([16, 16, 3]),
        )
    )
    expected = [
        images.resize_image(images.decode_image(each), 16, "squash") for each in encoded
    ]
    np.testing.assert_allclose(decode(tf.constant(encoded)), expected, atol=1e-3)


def test_only_jpeg_files_are_turned():
    for format in ("PNG", "JPEG"):
        encoded = photograph(6, format)
        is_turned = format == "JPEG"
        assert images.decode_image(encoded).shape[0] == (61 if is_turned else 45)
        assert edge.decode(encoded).height == (61 if is_turned else 45)
        assert images.upright_size(encoded)[1] == (61 if is_turned else 45)


def test_a_picture_of_several_photographs_is_the_first_one():
    second = Image.fromarray(255 - SMOOTH)
    encoded = encode(
        Image.fromarray(SMOOTH),
        "MPO",
        save_all=True,
        append_images=[second],
        exif=exif((ORIENTATION, SHORT, 1, 6)),
    )
    with Image.open(io.BytesIO(encoded)) as image:
        assert image.format == "MPO"
    assert images.why_unreadable(encoded) is None
    decoded = images.decode_image(encoded)
    np.testing.assert_allclose(decoded, turn(SMOOTH, 6), atol=30)
    np.testing.assert_array_equal(decoded, edge.decode(encoded))


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
    tolerance = 1.01 if "cmyk" in kind else 0.01
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


def test_the_files_of_a_folder_are_listed_but_for_hidden_ones(tmp_path):
    for name in (
        *("b.PNG", "a.jpg", "notes.txt", "deep/er/c.webp", "folder.jpg/d.jpg"),
        *(".hidden.jpg", ".hidden/e.jpg", "deep/.f.jpg", "Thumbs.db"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path) for path in images.list_files(tmp_path)]
    assert list(map(str, names)) == [
        *("a.jpg", "b.PNG", "deep/er/c.webp", "folder.jpg/d.jpg", "notes.txt"),
    ]


def test_files_that_cannot_be_used_are_explained(tmp_path, monkeypatch, capsys):
    contents = {
        "good.png": ENCODED["png"],
        "cut.jpg": ENCODED["jpeg"][:300],
        "cut.webp": encode(Image.fromarray(RGB), "WEBP")[:300],
        "notes.txt": b"no image",
        "empty.jpg": b"",
        "phone.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "float.tiff": encode(Image.fromarray(RAMP.astype("float32")), "TIFF"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    paths = [tmp_path / name for name in (*contents, "dangling.jpg")]
    # As without its reader.
    monkeypatch.setitem(Image.OPEN, "HEIF", (None, lambda prefix: False))
    files, reasons = images.make_decodable(paths)
    assert files == [paths[0]] + [None] * 7
    assert [path for path, _ in reasons] == paths[1:]
    damaged = "is damaged or truncated; replace it"
    no_image = "is not an image; use JPEG or PNG files"
    assert [reason for _, reason in reasons] == [
        *(damaged, damaged, no_image, no_image),
        "is a HEIC image; convert it to JPEG (for training, pip install "
        "'keras-apps[formats]' will do)",
        "has pixels of the mode F; convert it to 8 bits per channel",
        "cannot be read: No such file or directory",
    ]
    assert "converted" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("format", "tolerance"),
    [
        *(("WEBP", 16), ("AVIF", 16), ("HEIF", 16), ("JPEG2000", 3)),
        *(("TIFF", 0), ("PPM", 0), ("TGA", 0)),
    ],
)
def test_other_formats_are_converted(format, tolerance, tmp_path, capsys):
    if format == "HEIF":
        pytest.importorskip("pillow_heif")
    has_orientation = format in ("AVIF", "HEIF", "TIFF", "WEBP")
    encoded = photograph(6, format, SMOOTH)
    assert f"is a {format} image; convert it" in images.why_unreadable(encoded)
    with pytest.raises(ValueError, match=f"is a {format} image; convert it to JPEG"):
        edge.decode(encoded)
    path = tmp_path / "photo"
    path.write_bytes(encoded)
    (copy,), reasons = images.make_decodable([path])
    assert not reasons
    assert copy.suffix == (".png" if tolerance == 0 else ".jpg")
    assert images.why_unreadable(copy.read_bytes()) is None
    decoded = images.decode_image(copy.read_bytes())
    expected = turn(SMOOTH, 6) if has_orientation else SMOOTH
    np.testing.assert_allclose(decoded, expected, atol=tolerance)
    line = f"converted images that TensorFlow does not decode: 1 {format}\n"
    assert capsys.readouterr().out == line
    # It is converted once.
    before = copy.stat().st_mtime_ns
    assert images.make_decodable([path]) == ([copy], [])
    assert copy.stat().st_mtime_ns == before


def test_unusual_pixels_are_converted_as_the_graph_decodes_them(tmp_path):
    clear = np.dstack([RGB, np.zeros_like(ALPHA)])
    for content, expected in (
        (encode(Image.fromarray(RAMP), "TIFF"), np.dstack([RAMP >> 8] * 3)),
        (encode(Image.fromarray(clear), "TIFF"), np.full_like(RGB, 255)),
        (
            encode(Image.fromarray(RGB).convert("P"), "BMP"),
            Image.fromarray(RGB).convert("P").convert("RGB"),
        ),
    ):
        path = tmp_path / "image"
        path.write_bytes(content)
        ((copy,), reasons) = images.make_decodable([path])
        assert not reasons
        np.testing.assert_array_equal(images.decode_image(copy.read_bytes()), expected)


def test_folders_are_expanded(tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    image = Image.new("RGB", (8, 8))
    for path in ("photos/b.png", "photos/more/a.jpg", "photos/web.webp", "one.png"):
        image.save(tmp_path / path)
    (folder / "notes.txt").write_text("no image")
    names, files = images.find_images([tmp_path / "one.png", folder])
    found = ("one.png", "photos/b.png", "photos/more/a.jpg", "photos/web.webp")
    assert names == [str(tmp_path / path) for path in found]
    assert [str(path) for path in files[:3]] == names[:3]
    assert files[3].suffix == ".jpg"  # TensorFlow does not decode WebP.
    err = capsys.readouterr().err
    assert err.startswith("skipped 1 file: is not an image")
    assert "notes.txt" in err


def test_outputs_are_named_like_their_images():
    paths = images.name_outputs("--masks", Path("masks"), ["street/a.jpg", "b.png"])
    assert paths == [Path("masks/a.png"), Path("masks/b.png")]


@pytest.mark.parametrize(
    ("folder", "names"),
    [("masks", ["one/a.jpg", "two/a.png"]), (".", ["a.png", "b.jpg"])],
)
def test_no_output_replaces_an_image_or_another_output(folder, names):
    with pytest.raises(
        BadInput, match=r"--masks .*: a file would replace an image, or"
    ):
        images.name_outputs("--masks", Path(folder), names)


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(BadInput, match="has no image that can be read; pass another"):
        images.find_images([tmp_path])


# Maps of squares


def square_of(pixels, how):
    rgb = tf.repeat(tf.constant(pixels), 3, -1)
    return images.resize_image(rgb, 64, how)[..., :1]


@pytest.mark.parametrize("how", ["squash", "pad", "crop"])
@pytest.mark.parametrize(("height", "width"), [(96, 160), (160, 96), (128, 128)])
def test_a_map_of_the_square_lies_over_the_image(how, height, width):
    """The square itself, as a map, is the image again where it reaches."""
    y, x = (np.indices((height, width)) + 0.5) * 2 * np.pi / 128
    pixels = (128 + 60 * np.sin(y) + 60 * np.cos(1.5 * x))[..., None].astype("float32")
    placed = images.place_map(square_of(pixels, how), height, width, how)
    assert (placed.shape, placed.dtype) == ((height, width), np.float32)
    expected, side = pixels[..., 0], min(height, width)
    if how == "crop":
        top, left = (height - side) // 2, (width - side) // 2
        inner = np.s_[top : top + side, left : left + side]
        outside = placed.copy()
        outside[inner] = 0
        assert not outside.any()
        placed, expected = placed[inner], expected[inner]
    # The edges are blurred by the resizing.
    difference = np.abs(placed - expected)[4:-4, 4:-4]
    assert difference.max() < 8
    assert expected.std() > 30

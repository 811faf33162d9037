import io
import struct
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from apps.common import images
from apps.common.errors import BadInput
from apps.image_classification import edge
from apps.semantic_segmentation import edge as segmentation_edge
from apps.semantic_segmentation.edge import prepare

RNG = np.random.default_rng(0)
RGB = RNG.normal((120, 90, 60), 40, (45, 61, 3)).clip(0, 255).astype("uint8")
RAMP = np.linspace(0, 65535, 61 * 45).reshape(45, 61).astype("uint16")
ALPHA = RNG.integers(0, 256, (45, 61, 1), "uint8")
ROWS, COLUMNS = np.indices((45, 61))
SMOOTH = np.stack([4 * COLUMNS, 5 * ROWS, 255 - 4 * COLUMNS], axis=-1).astype("uint8")


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
    # Smaller, about as large, larger.
    for size, how in ((16, "crop"), (45, "pad"), (100, "squash")):
        resized = images.resize_image(served, size, how).numpy()
        on_device = edge.prepare(encoded, size, how)[0]
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


ORIENTATION = 0x0112
SHORT, LONG = 3, 4


def exif(*entries, order="<", after=b""):
    """Returns Exif data with one directory of tags, types, counts and values."""
    byte_order = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join(
        (
            *(b"Exif\0\0", byte_order, struct.pack(f"{order}IH", 8, len(entries))),
            *(struct.pack(f"{order}HHIHxx", *entry) for entry in entries),
            *(struct.pack(f"{order}I", 0), after),
        )
    )


def photograph(orientation, format="JPEG", pixels=RGB):
    """Returns an encoded image with the orientation that a camera would record."""
    data = exif((ORIENTATION, SHORT, 1, orientation))
    return encode(Image.fromarray(pixels), format, exif=data)


def turn(pixels, orientation):
    """Turns an image upright, by Pillow."""
    with Image.open(io.BytesIO(photograph(orientation, "PNG", pixels))) as image:
        return np.asarray(ImageOps.exif_transpose(image))


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


TURNED = (ORIENTATION, SHORT, 1, 6)
OTHERS = [(0x010E + i, SHORT, 1, 3) for i in range(4)]
EXIF = {
    "big-endian": (exif(TURNED, order=">"), 6),
    "among other tags": (exif(*OTHERS, TURNED, (0x8769, LONG, 1, 90)), 6),
    "before damaged tags": (exif((0x010F, 2, 99, 60000), TURNED), 6),
    "above 8": (exif((ORIENTATION, SHORT, 1, 9)), 1),
    "zero": (exif((ORIENTATION, SHORT, 1, 0)), 1),
    "of another type": (exif((ORIENTATION, LONG, 1, 6)), 1),
    "of two values": (exif((ORIENTATION, SHORT, 2, 6)), 1),
    "of the thumbnail": (exif(*OTHERS, after=exif(TURNED)[14:]), 1),
    "without entries": (exif(), 1),
    "cut": (exif(*OTHERS, TURNED)[:-6], 1),
    "cut behind it": (exif(TURNED, *OTHERS)[:-20], 6),
    "at no place": (exif(TURNED)[:10] + b"\xff" * 4 + exif(TURNED)[14:], 1),
    "without a byte order": (exif(TURNED).replace(b"II*\0", b"JJ*\0"), 1),
    "empty": (b"Exif\0\0", 1),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
@pytest.mark.parametrize("kind", EXIF)
def test_odd_orientations_are_read_alike(kind):
    data, expected = EXIF[kind]
    encoded = encode(Image.fromarray(RGB), "JPEG", exif=data)
    assert images.read_orientation(encoded) == expected
    assert edge.read_orientation(data) == expected
    assert segmentation_edge.read_orientation(data) == expected
    np.testing.assert_array_equal(images.decode_image(encoded), edge.decode(encoded))


def test_an_orientation_is_found_behind_other_segments():
    encoded = photograph(6)
    comment = b"\xff\xfe" + struct.pack(">H", 1002) + b"\xff\xda" * 500
    for before in (comment, comment * 20, b"\xff" * 3, comment + b"\xff"):
        longer = encoded[:2] + before + encoded[2:]
        assert images.read_orientation(longer) == 6
        assert edge.decode(longer).size == (45, 61)
    # The work is bounded.
    many = encoded[:2] + b"\xff\xfe\0\2" * images.MAX_SEGMENTS + encoded[2:]
    assert images.read_orientation(many) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
def test_damaged_headers_are_no_error():
    encoded = photograph(6)
    for end in range(100):
        assert images.read_orientation(encoded[:end]) in (1, 6)
    random = np.random.default_rng(0)
    begin = encoded.index(b"Exif")
    for _ in range(200):
        damaged = bytearray(encoded)
        for place in random.integers(begin, begin + 32, 2):
            damaged[place] = random.integers(256)
        with Image.open(io.BytesIO(damaged)) as image:
            expected = edge.read_orientation(image.info.get("exif", b""))
        assert images.read_orientation(bytes(damaged)) == expected


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
        exif=exif(TURNED),
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

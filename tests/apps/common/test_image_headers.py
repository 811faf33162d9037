import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, PngImagePlugin

from apps.common import image_headers, images
from apps.image_classification import edge
from apps.semantic_segmentation import edge as segmentation_edge
from benchmarks import malformed_requests
from tests.apps.common.photographs import (
    LONG,
    ORIENTATION,
    RGB,
    SHORT,
    encode,
    exif,
    photograph,
)

# Sizes.

PLAIN = Image.fromarray(RGB)
FILES = {
    "jpeg": encode(PLAIN, "JPEG"),
    "grey jpeg": encode(PLAIN.convert("L"), "JPEG"),
    "cmyk jpeg": encode(PLAIN.convert("CMYK"), "JPEG"),
    "progressive jpeg": encode(PLAIN, "JPEG", progressive=True),
    "turned jpeg": photograph(6),
    "png": encode(PLAIN, "PNG"),
    "png of 1 bit": encode(PLAIN.convert("1"), "PNG"),
    "gif": encode(PLAIN, "GIF"),
    "gif without interlacing": encode(PLAIN, "GIF", interlace=0),
    "gif with a comment": encode(PLAIN, "GIF", comment=1000 * b",!;"),
    "transparent gif": encode(PLAIN.convert("P"), "GIF", transparency=3),
    "bmp": encode(PLAIN, "BMP"),
    "transparent bmp": encode(PLAIN.convert("RGBA"), "BMP"),
}


def check():
    """Returns a function of a file that returns why it must not be decoded.

    The graph has the limits of the time of this call.
    """

    @tf.function
    def run(file):
        return tf.cond(
            tf.io.is_jpeg(file),
            lambda: image_headers.check_jpeg(file),
            lambda: image_headers.check_other(file)[1],
        )

    graph = run.get_concrete_function(tf.TensorSpec([], tf.string))
    return lambda file: graph(tf.constant(file)).numpy().decode()


def limit_pixels(monkeypatch, max_pixels):
    """Changes the number of pixels that an image may have."""
    monkeypatch.setattr(image_headers, "MAX_PIXELS", max_pixels)
    monkeypatch.setattr(
        image_headers, "MAX_JPEG_WORK", max_pixels * image_headers.MAX_SCANS
    )


def says_too_large(width, height, max_pixels):
    return (
        f"the image has {width} × {height} pixels; "
        f"make it smaller than {max_pixels:,} pixels"
    )


def test_sizes_are_those_that_pillow_reads(monkeypatch):
    limit_pixels(monkeypatch, 61 * 45)
    accept = check()
    limit_pixels(monkeypatch, 61 * 45 - 1)
    refuse = check()
    for kind, file in FILES.items():
        with Image.open(io.BytesIO(file)) as image:
            assert image.size == (61, 45)
        assert accept(file) == "", kind
        assert refuse(file) == says_too_large(61, 45, 61 * 45 - 1), kind


def of_size(kind, width, height):
    """Returns a file whose header has this size."""
    file = bytearray(FILES[kind])
    if "jpeg" in kind:
        place = file.index(b"\xff\xc0") + 5
        file[place : place + 4] = struct.pack(">HH", height, width)
    elif "png" in kind:
        file[16:24] = struct.pack(">II", width, height)
    elif "gif" in kind:
        file[6:10] = struct.pack("<HH", width, height)
    else:
        file[18:26] = struct.pack("<II", width, height)
    return bytes(file)


@pytest.mark.parametrize(
    ("kind", "largest"),
    [("jpeg", 65_500), ("png", 2**32 - 1), ("gif", 2**16 - 1), ("bmp", 2**31 - 1)],
)
def test_large_sizes_are_refused_without_overflow(kind, largest):
    refuse = check()
    sides = [1, 4096, 5000, 5001, 25_001, 46_341, 2**16, 2**31 - 1, 2**32 - 1, largest]
    for width in sides:
        for height in sides:
            if max(width, height) > largest:
                continue
            error = refuse(of_size(kind, width, height))
            if kind == "gif":  # At least its frame.
                width, height = max(width, 61), max(height, 45)
            is_large = width * height > 25_000_000
            assert error == (
                says_too_large(width, height, 25_000_000) if is_large else ""
            )


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_images_without_pixels_are_refused(kind):
    refuse = check()
    for size in ((0, 45), (61, 0), (0, 0)):
        assert refuse(of_size(kind, *size)) == image_headers.DAMAGED


def test_other_formats_are_refused():
    unknown = "the image is no JPEG, PNG, GIF or BMP file; convert it to JPEG or PNG"
    refuse = check()
    for file in (
        *(b"", b"B", b"GIF7", b"no image", FILES["png"][1:], FILES["png"][:7]),
        *(encode(PLAIN, format) for format in ("WEBP", "TIFF", "ICO", "JPEG2000")),
    ):
        assert refuse(file) == unknown


def test_bmp_files_may_be_stored_from_top_to_bottom(monkeypatch):
    file = bytearray(FILES["bmp"])
    file[22:26] = struct.pack("<i", -45)
    limit_pixels(monkeypatch, 61 * 45)
    assert check()(bytes(file)) == ""
    assert tf.io.decode_image(bytes(file)).shape == (45, 61, 3)
    limit_pixels(monkeypatch, 61 * 45 - 1)
    assert check()(bytes(file)) == says_too_large(61, 45, 61 * 45 - 1)
    file[22:26] = struct.pack("<i", -(2**31))
    assert check()(bytes(file)) == says_too_large(61, 2**31, 61 * 45 - 1)


def test_bmp_files_with_a_palette_are_refused():
    refuse = check()
    for mode in ("1", "L", "P"):
        error = refuse(encode(PLAIN.convert(mode), "BMP"))
        assert error == "the image is a BMP file with a palette; convert it to PNG"


def test_cut_headers_are_damaged():
    refuse = check()
    for kind, size in (("png", 24), ("bmp", 32), ("gif", 13)):
        for end in range(8, size):
            assert refuse(FILES[kind][:end]) == image_headers.DAMAGED


# Scans of JPEG files.


def test_jpeg_files_of_many_scans_are_refused(monkeypatch):
    grey = encode(PLAIN.convert("L"), "JPEG", progressive=True)
    last = grey.rindex(b"\xff\xda")
    first_scans = grey.count(b"\xff\xda") - 1
    max_scans = image_headers.MAX_SCANS

    def with_scans(number):
        return grey[:last] + (number - first_scans) * grey[last:-2] + grey[-2:]

    slow = "the image is a JPEG file of too many scans; save it again"
    max_markers = image_headers.MAX_MARKERS
    assert check()(with_scans(max_markers - 1)) == ""  # The image is small.
    assert check()(with_scans(max_markers)) == slow
    limit_pixels(monkeypatch, 61 * 45)
    assert check()(with_scans(max_scans)) == ""
    assert check()(with_scans(max_scans + 1)) == slow
    limit_pixels(monkeypatch, 2 * 61 * 45)
    assert check()(with_scans(2 * max_scans)) == ""
    assert check()(with_scans(2 * max_scans + 1)) == slow
    # The work is that of all pixels in all scans.
    for number, expected in ((1, max_scans), (max_scans, max_scans), (300, 300)):
        work = image_headers.jpeg_work(with_scans(max(number, first_scans)))
        assert int(work) == 61 * 45 * expected


def test_png_files_of_many_comments_are_refused():
    png = encode(PLAIN, "PNG")
    max_comments = image_headers.MAX_COMMENTS

    def with_comments(number):
        text = PngImagePlugin.PngInfo()
        for i in range(number):
            text.add_text(f"key {i}", "text", zip=True)
        return encode(PLAIN, "PNG", pnginfo=text)

    assert check()(png) == check()(with_comments(max_comments - 1)) == ""
    many = "the image is a PNG file of too many comments; save it again"
    assert check()(with_comments(max_comments)) == many


# Animations.


def frames(number=3, size=(61, 45), **options):
    """Returns the frames of an animation, and its file."""
    random = np.random.default_rng(1)
    pictures = [
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), "uint8"))
        for _ in range(number)
    ]
    first, *others = pictures
    file = encode(
        first, "GIF", save_all=True, append_images=others, loop=0, duration=9, **options
    )
    return file


def palette_end(gif):
    """Returns where the common palette of an animation ends."""
    return 13 + 3 * 2 ** (gif[10] % 8 + 1)


def with_own_palette(gif):
    """Moves the common palette of an animation into its first frame."""
    end = palette_end(gif)
    frame = gif.index(b",", end)
    flags = gif[10] & 0b10000111
    return b"".join(
        (
            *(gif[:10], bytes([gif[10] - flags]), gif[11:13], gif[end : frame + 9]),
            *(bytes([gif[frame + 9] | flags]), gif[13:end], gif[frame + 10 :]),
        )
    )


def in_small_blocks(gif):
    """Stores the pixels of the only frame of a file in blocks of one byte."""
    start = gif.index(b",", palette_end(gif)) + 11
    place, blocks = start, []
    while gif[place]:
        blocks.append(gif[place + 1 : place + 1 + gif[place]])
        place += 1 + gif[place]
    pixels = b"".join(blocks)
    small = b"".join(b"\1" + pixels[i : i + 1] for i in range(len(pixels)))
    return gif[:start] + small + gif[place:], len(pixels)


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def check_other(file):
    return image_headers.check_other(file)


ANIMATIONS = {
    "plain": frames(),
    "with a comment": frames(comment=2000 * b"!,;\0"),
    "not interlaced": frames(interlace=0),
    "of one frame": frames(number=1),
    "small": frames(size=(1, 1)),
    "with its own palette": with_own_palette(frames()),
}


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_of_an_animation_the_first_frame_is_decoded(kind):
    file = ANIMATIONS[kind]
    first, error = check_other(file)
    assert error.numpy() == b""
    with Image.open(io.BytesIO(file)) as image:
        expected = np.asarray(image.convert("RGB"))
    decoded = tf.io.decode_image(first)
    assert decoded.shape == (1, *expected.shape)
    np.testing.assert_array_equal(decoded[0], expected)
    # Nothing but the first frame has to be there.
    end = len(first.numpy()) - 1
    assert file[:end] + b";" == first.numpy()
    again, error = check_other(file[:end])
    assert (again.numpy(), error.numpy()) == (first.numpy(), b"")


def test_an_animation_that_is_cut_in_its_first_frame_is_damaged():
    file = frames(size=(5, 4), comment=b"ab")
    end = len(check_other(file)[0].numpy()) - 1
    for length in range(6, len(file)):
        error = check_other(file[:length])[1].numpy().decode()
        assert error == ("" if length >= end else image_headers.DAMAGED)


def test_a_frame_that_is_larger_than_its_animation_counts(monkeypatch):
    file = bytearray(FILES["gif"])
    frame = file.index(b",", palette_end(file))
    limit_pixels(monkeypatch, 1000)
    for place in (6, frame + 5):
        small = bytearray(file)
        small[place : place + 4] = struct.pack("<HH", 2, 3)
        assert check()(bytes(small)) == says_too_large(61, 45, 1000)


def test_the_search_in_an_animation_is_bounded():
    file = FILES["gif"]
    start = palette_end(file)

    def with_extensions(number, num_blocks=1):
        extension = b"!\xfe" + num_blocks * b"\1." + b"\0"
        return file[:start] + number * extension + file[start:]

    refuse = check()
    assert refuse(with_extensions(10)) == ""
    assert refuse(with_extensions(2, num_blocks=300)) == ""
    most = image_headers.MAX_EXTENSIONS + 1
    assert refuse(with_extensions(most)) == image_headers.DAMAGED
    most = image_headers.MAX_FRAME_BLOCKS + 1
    assert refuse(with_extensions(1, most)) == image_headers.DAMAGED
    # The same for the blocks of the frame.
    for side, is_good in ((100, True), (220, False)):
        file, num_blocks = in_small_blocks(frames(number=1, size=(side, side)))
        assert is_good == (num_blocks <= image_headers.MAX_FRAME_BLOCKS)
        assert tf.io.decode_image(file).shape == (1, side, side, 3)
        assert refuse(file) == ("" if is_good else image_headers.DAMAGED)


# Damaged files.


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_nothing_larger_than_the_limit_is_ever_decoded(format, monkeypatch):
    max_pixels = 2000
    limit_pixels(monkeypatch, max_pixels)
    run = check()
    damage = malformed_requests.flipped(format)
    lie = getattr(malformed_requests, f"lying_{format.lower()}")
    random = np.random.default_rng(0)
    num_accepted = num_refused = 0
    for _ in range(300):
        file = damage(random) if random.integers(3) else lie(random)
        try:
            error = run(file)
            if format == "GIF":
                file = check_other(file)[0]
        except tf.errors.InvalidArgumentError:
            assert format == "JPEG"  # `decode_each` goes on after it.
            continue
        if error:
            num_refused += 1
            continue
        try:
            decoded = tf.io.decode_image(file, expand_animations=False)
        except tf.errors.InvalidArgumentError:
            continue
        num_accepted += 1
        assert decoded.shape[0] * decoded.shape[1] <= max_pixels
    assert num_accepted
    assert num_refused


# Orientations.

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
    assert image_headers.read_orientation(encoded) == expected
    assert edge.read_orientation(data) == expected
    assert segmentation_edge.read_orientation(data) == expected
    np.testing.assert_array_equal(images.decode_image(encoded), edge.decode(encoded))


def test_an_orientation_is_found_behind_other_segments():
    encoded = photograph(6)
    comment = b"\xff\xfe" + struct.pack(">H", 1002) + b"\xff\xda" * 500
    for before in (comment, comment * 20, b"\xff" * 3, comment + b"\xff"):
        longer = encoded[:2] + before + encoded[2:]
        assert image_headers.read_orientation(longer) == 6
        assert edge.decode(longer).size == (45, 61)
    # The work is bounded.
    many = encoded[:2] + b"\xff\xfe\0\2" * image_headers.MAX_SEGMENTS + encoded[2:]
    assert image_headers.read_orientation(many) == 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Tag data larger")
def test_damaged_headers_are_no_error():
    encoded = photograph(6)
    for end in range(100):
        assert image_headers.read_orientation(encoded[:end]) in (1, 6)
    random = np.random.default_rng(0)
    begin = encoded.index(b"Exif")
    for _ in range(200):
        damaged = bytearray(encoded)
        for place in random.integers(begin, begin + 32, 2):
            damaged[place] = random.integers(256)
        with Image.open(io.BytesIO(damaged)) as image:
            expected = edge.read_orientation(image.info.get("exif", b""))
        assert image_headers.read_orientation(bytes(damaged)) == expected

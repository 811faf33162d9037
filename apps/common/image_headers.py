"""Reads the headers of image files inside a graph: format, size and orientation."""

import numpy as np
import tensorflow as tf

# What a served graph decodes at most: photographs of 25 megapixels. A JPEG file may
# write them several times, each time finer.
MAX_PIXELS = 25_000_000
MAX_SCANS = 20
MAX_JPEG_WORK = MAX_PIXELS * MAX_SCANS
# Segments of a JPEG file in which its orientation is searched, scans that are counted,
# and compressed comments in a PNG file.
MAX_SEGMENTS = 256
MAX_MARKERS = 1000
MAX_COMMENTS = 20
# Extensions before the first frame of a GIF file, and blocks of up to 255 bytes in each
# and in the frame.
MAX_EXTENSIONS = 20
MAX_EXTENSION_BLOCKS = 1000
MAX_FRAME_BLOCKS = 20_000

DAMAGED = "the image is damaged or truncated; replace it"


def check_jpeg(jpeg: tf.Tensor) -> tf.Tensor:
    """Returns why a JPEG file must not be decoded, or an empty string.

    Args:
        jpeg: Scalar string: a file.

    Raises:
        tf.errors.InvalidArgumentError: The header is damaged; when the graph runs.
    """
    is_slow = jpeg_work(jpeg) > MAX_JPEG_WORK
    slow = "the image is a JPEG file of too many scans; save it again"
    error = _check_size(tf.cast(tf.io.extract_jpeg_shape(jpeg)[:2], tf.int64))
    return tf.where((error == "") & is_slow, slow, error)


def jpeg_work(jpeg: tf.Tensor) -> tf.Tensor:
    """Returns the number of pixels times the number of scans of a JPEG file, int64.

    Each scan writes all pixels again, finer. The first `MAX_SCANS` count as that many.

    Raises:
        tf.errors.InvalidArgumentError: The header is damaged; when the graph runs.
    """
    height, width, _ = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(jpeg), tf.int64))
    # Coded pixels never contain the first bytes of a scan.
    num_scans = _count(jpeg, b"\xff\xda", MAX_MARKERS)
    # Tiny images could have any number of scans.
    num_scans = tf.where(num_scans < MAX_MARKERS, num_scans, MAX_JPEG_WORK)
    return height * width * tf.maximum(num_scans, MAX_SCANS)


def check_other(image_bytes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Checks a file that is no JPEG file.

    Args:
        image_bytes: Scalar string: a file.

    Returns:
        The file to decode, of a GIF file the first frame only; and why it must not be
        decoded, or an empty string.
    """

    def begins(magic):
        return tf.strings.substr(image_bytes, 0, len(magic)) == magic

    unknown = "the image is no JPEG, PNG, GIF or BMP file; convert it to JPEG or PNG"
    return tf.case(
        [
            (begins(b"\x89PNG\r\n\x1a\n"), lambda: _check_png(image_bytes)),
            (begins(b"GIF8"), lambda: _check_gif(image_bytes)),
            (begins(b"BM"), lambda: _check_bmp(image_bytes)),
        ],
        default=lambda: (image_bytes, tf.constant(unknown)),
    )


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def read_orientation(jpeg: tf.Tensor) -> tf.Tensor:
    """Reads the orientation that a camera recorded in a JPEG file, inside a graph.

    The orientation is tag 0x0112 in the first directory of the Exif data.

    Args:
        jpeg: Scalar string: a JPEG file.

    Returns:
        int32 scalar from 1 to 8; 1, upright, if the file has no Exif data or they are
        damaged.
    """
    exif = _find_exif(jpeg)
    byte_order = tf.strings.substr(exif, 0, 4)
    is_big_endian = byte_order == b"MM\0*"
    is_tiff = is_big_endian | (byte_order == b"II*\0")

    def number(octets):
        weights = 256 ** np.arange(octets.shape[-1])
        weights = tf.where(is_big_endian, weights[::-1], weights)
        return tf.reduce_sum(octets * weights, axis=-1)

    size = tf.cast(tf.strings.length(exif), tf.int64)
    start = tf.minimum(number(_octets(exif, 4, 4)), size)
    num_entries = tf.minimum(
        number(_octets(exif, start, 2)), tf.maximum(size - start - 2, 0) // 12
    )
    # Without entries 12 zeros are read, which are no orientation.
    length = 12 * tf.maximum(num_entries, 1)
    entries = tf.reshape(_octets(exif, start + 2, length), (-1, 12))
    tags, types, counts, values = (
        number(entries[:, begin:end])
        for begin, end in ((0, 2), (2, 4), (4, 8), (8, 10))
    )
    is_orientation = is_tiff & (tags == 0x0112) & (types == 3) & (counts == 1)
    is_orientation &= (values >= 1) & (values <= 8)
    found = tf.boolean_mask(values, is_orientation)
    return tf.cast(tf.concat([found, [1]], axis=0)[0], tf.int32)


def _check_png(png):
    # Each compressed comment may take a tenth of a second.
    has_many = _count(png, b"TXt", MAX_COMMENTS) == MAX_COMMENTS
    comments = "the image is a PNG file of too many comments; save it again"
    error = _check_size([_number(png, 20, 4), _number(png, 16, 4)])
    return png, tf.where((error == "") & has_many, comments, error)


def _check_bmp(bmp):
    # The height is negative if the rows are stored from top to bottom.
    height, width = (_number(bmp, start, 4, is_little=True) for start in (22, 18))
    height = tf.minimum(height, 2**32 - height)
    has_palette = _number(bmp, 28, 2, is_little=True) < 24
    palette = "the image is a BMP file with a palette; convert it to PNG"
    error = tf.where(has_palette, palette, _check_size([height, width]))
    return bmp, tf.where(tf.strings.length(bmp) < 32, DAMAGED, error)


def _check_gif(gif):
    size = tf.strings.length(gif)

    def octet(start):
        return tf.cast(_octets(gif, start, 1)[0], tf.int32)

    def palette_bytes(start):
        flags = octet(start)
        return tf.where(flags >= 128, 3 * 2 ** (flags % 8 + 1), 0)

    def skip_blocks(start, max_blocks):
        """Returns where a chain of blocks ends; each begins with its length."""
        return tf.while_loop(
            lambda start: octet(start) > 0,
            lambda start: (start + 1 + octet(start),),
            [start],
            maximum_iterations=max_blocks,
        )[0]

    # Extensions, which begin with "!", precede the first frame, which begins with ",".
    (frame,) = tf.while_loop(
        lambda start: octet(start) == ord("!"),
        lambda start: (skip_blocks(start + 2, MAX_EXTENSION_BLOCKS) + 1,),
        [13 + palette_bytes(10)],
        maximum_iterations=MAX_EXTENSIONS,
    )
    end = skip_blocks(frame + 10 + palette_bytes(frame + 9) + 1, MAX_FRAME_BLOCKS)
    is_whole = (octet(frame) == ord(",")) & (end < size) & (octet(end) == 0)
    height, width = (
        tf.maximum(
            _number(gif, screen, 2, is_little=True),
            _number(gif, frame + offset, 2, is_little=True),
        )
        for screen, offset in ((8, 7), (6, 5))
    )
    first = tf.strings.substr(gif, 0, tf.minimum(end + 1, size)) + ";"
    return first, tf.where(is_whole, _check_size([height, width]), DAMAGED)


def _check_size(size):
    """Returns what is wrong with a height and width, int64; an empty string if nothing.

    Each is less than 2³².
    """
    height, width = size[0], size[1]
    large = tf.strings.format(
        f"the image has {{}} × {{}} pixels; make it smaller than {MAX_PIXELS:,} pixels",
        (width, height),
    )
    # Divided, since the product may be too large for 64 bits.
    is_large = height > MAX_PIXELS // tf.maximum(width, 1)
    is_damaged = (height < 1) | (width < 1)
    return tf.where(is_damaged, DAMAGED, tf.where(is_large, large, ""))


def _find_exif(jpeg):
    """Returns the Exif data of a JPEG file; an empty string if it has none."""
    size = tf.strings.length(jpeg)

    def begins(start, text):
        return tf.strings.substr(jpeg, tf.minimum(start, size), len(text)) == text

    def is_exif(start):
        return begins(start, b"\xff\xe1") & begins(start + 4, b"Exif\0\0")

    def is_searching(start):
        is_scan = begins(start, b"\xff\xda")
        return (start < size) & ~is_exif(start) & ~is_scan

    def skip(start):
        first, second, high, low = tf.unstack(_octets(jpeg, start, 4))
        is_marker = (first == 0xFF) & (second != 0xFF) & (second != 0)
        length = tf.where(is_marker, 2 + 256 * high + low, 1)  # Else padding.
        return (start + tf.cast(length, tf.int32),)

    (start,) = tf.while_loop(is_searching, skip, [2], maximum_iterations=MAX_SEGMENTS)
    length = tf.cast(_number(jpeg, start + 2, 2), tf.int32) - 8
    length = tf.where(is_exif(start), tf.maximum(length, 0), 0)
    return tf.strings.substr(jpeg, tf.minimum(start + 10, size), length)


def _count(text, part, largest):
    """Returns how often a string contains another one, but no more than `largest`."""
    pieces = tf.strings.split([text], part, maxsplit=largest)
    return tf.size(pieces.values, tf.int64) - 1


def _number(text, start, length, is_little=False):
    """Returns some bytes of a string as an unsigned number, int64."""
    weights = 256 ** np.arange(length)
    weights = weights if is_little else weights[::-1]
    return tf.reduce_sum(_octets(text, start, length) * weights)


def _octets(text, start, length):
    """Returns some bytes of a string, int64 `(length,)`; zeros beyond its end."""
    start = tf.minimum(tf.cast(start, tf.int32), tf.strings.length(text))
    length = tf.cast(length, tf.int32)
    part = tf.strings.substr(text, start, length)
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=length), tf.int64)

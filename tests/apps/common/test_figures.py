import io
import warnings

import numpy as np
import pytest
from PIL import Image

from apps.common import figures


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def drawn(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def count(image, color):
    return (np.abs(image.astype(int) - color).max(axis=-1) < 8).sum()


def test_a_grid_shows_every_image(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    encoded = [encode(np.full((80, 80, 3), color, "uint8")) for color in colors]
    path = tmp_path / "deep/grid.png"
    figures.draw_grid(encoded, ["one", "two", "three"], path, columns=2)
    image = drawn(path)
    for color in colors:
        assert count(image, color) > 5000


def test_a_heat_map_is_drawn_beside_the_plain_image(tmp_path):
    grey = encode(np.full((80, 80, 3), 128, "uint8"))
    heat = np.array([[0, 1], [0, 1]], "float32")
    figures.draw_grid([grey], ["hot on the right"], tmp_path / "heat.png", [heat])
    image = drawn(tmp_path / "heat.png").astype(int)
    warmth = np.abs(image[..., 0] - image[..., 2]).max(axis=0)
    quarter = image.shape[1] // 4
    assert warmth[: 2 * quarter + 20].max() < 5  # Plain, and the cold side.
    assert warmth[3 * quarter + 20 : -20].min() > 20


def test_long_titles_lose_their_middle(monkeypatch, tmp_path):
    titles = []
    monkeypatch.setattr(
        figures.plt.Axes,
        "set_title",
        lambda axis, title, **options: titles.append(title),
    )
    grey = encode(np.full((8, 8, 3), 128, "uint8"))
    name = f"a{'b' * 40}c_$1.jpg"
    figures.draw_grid([grey], [f"{name}\ncat 0.9"], tmp_path / "long.png")
    (title,) = titles
    assert title == f"a{'b' * 9}…{'b' * 2}c_$1.jpg\ncat 0.9"


def test_letters_that_the_font_lacks_cause_no_warnings(tmp_path):
    grey = encode(np.full((8, 8, 3), 128, "uint8"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.draw_grid([grey], ["一只狗"], tmp_path / "grid.png")
        maps = [np.ones((2, 2), "float32")]
        figures.draw_attention([grey], [["狗"]], [maps], ["狗"], tmp_path / "a.png")


def test_only_the_first_60_images_are_drawn(tmp_path):
    grey = encode(np.full((8, 8, 3), 128, "uint8"))
    heights = {}
    for number in (1, 60, 61):
        path = tmp_path / "many.png"
        figures.draw_grid([grey] * number, ["title"] * number, path, columns=60)
        heights[number] = drawn(path).shape[0]
    assert heights[61] == heights[60] < 1.5 * heights[1]


def test_an_empty_grid_is_drawn_too(tmp_path):
    figures.draw_grid([], [], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()


def test_thumbnails_are_small_and_transparency_is_white():
    large = figures.thumbnail(encode(np.zeros((900, 1800, 3), "uint8")))
    assert large.shape == (160, 320, 3)
    assert figures.thumbnail(encode(np.zeros((8, 8, 3), "uint8"))).shape == (8, 8, 3)
    assert figures.thumbnail(encode(np.zeros((8, 8, 4), "uint8"))).min() == 255
    sixteen = figures.thumbnail(encode(np.full((8, 8), 128 << 8, "uint16")))
    assert sixteen.min() == sixteen.max() == 128


def test_curves_and_confusion_matrix(tmp_path):
    history = [
        {"epoch": i, "loss": 1 / (i + 1), "val_loss": 1.0, "seconds": 2.0}
        for i in range(4)
    ]
    figures.draw_curves(history, tmp_path / "curves.png")
    assert drawn(tmp_path / "curves.png").std() > 10
    figures.draw_confusion_matrix(
        np.array([0, 1, 1]),
        np.array([0, 1, 0]),
        ["a", "b"],
        tmp_path / "confusion.png",
    )
    assert drawn(tmp_path / "confusion.png").std() > 10


def test_curves_without_validation_are_drawn_too(tmp_path):
    history = [{"epoch": i, "loss": 1 / (i + 1), "seconds": 2.0} for i in range(4)]
    figures.draw_curves(history, tmp_path / "curves.png")
    assert drawn(tmp_path / "curves.png").std() > 10


def test_classes_have_the_colors_that_were_given_and_others_of_their_own():
    given = ["#ff8000", None, "#000001", *[None] * 15]
    colors = figures.class_colors(given)
    assert (colors.shape, colors.dtype) == ((18, 3), "uint8")
    assert colors[0].tolist() == [255, 128, 0]
    assert colors[2].tolist() == [0, 0, 1]
    assert len(np.unique(colors, axis=0)) == 18
    # A class keeps its colour, whatever those of others are.
    np.testing.assert_array_equal(figures.class_colors([None, None])[1], colors[1])
    assert figures.class_colors([None] * 50).shape == (50, 3)


def test_an_overlay_colors_the_classes_and_leaves_void():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), "uint8")
    mask = np.zeros((20, 30), "uint8")
    mask[:, 10:20] = 1
    mask[:, 20:] = 255
    colors = np.array([(255, 0, 0), (0, 0, 255)], "uint8")
    laid = figures.overlay(encode(image), mask, colors, opacity=0.75)
    assert (laid.shape, laid.dtype) == (image.shape, "uint8")
    expected = 0.25 * image + 0.75 * colors[np.minimum(mask, 1)]
    np.testing.assert_allclose(laid[:, :20], expected[:, :20], atol=1)
    np.testing.assert_array_equal(laid[:, 20:], image[:, 20:])


def test_an_overlay_of_a_large_image_is_made_smaller_without_new_classes():
    mask = np.zeros((400, 800), "uint8")
    mask[:, 400:] = 2
    black = encode(np.zeros((400, 800, 3), "uint8"))
    colors = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)], "uint8")
    laid = figures.overlay(black, mask, colors, opacity=1.0)
    assert laid.shape == (160, 320, 3)
    np.testing.assert_array_equal(
        laid[:, :160], np.broadcast_to(colors[0], (160, 160, 3))
    )
    np.testing.assert_array_equal(
        laid[:, 160:], np.broadcast_to(colors[2], (160, 160, 3))
    )


def test_rows_show_every_image_and_the_legend(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
    squares = [np.full((90, 90, 3), color, "uint8") for color in colors]
    rows = [("one", squares[:2]), ("two", squares[2:])]
    path = tmp_path / "deep/rows.png"
    figures.draw_rows(rows, path, ["left", "right"])
    image = drawn(path)
    for color in colors:
        assert count(image, color) > 5000
    violet = np.array([150, 20, 150], "uint8")
    assert count(image, violet) == 0
    figures.draw_rows(rows, path, ["left", "right"], [("violet", violet)])
    assert count(drawn(path), violet) > 100


def test_rows_of_nothing_are_drawn_too(tmp_path):
    figures.draw_rows([], tmp_path / "none.png", ["left", "right"])
    assert (tmp_path / "none.png").exists()


def darkness(image):
    return (255 - image.astype(int)).sum()


def test_reliability_is_drawn_at_confidence_and_accuracy(tmp_path):
    blue = (31, 119, 180)
    places = {}
    for confidence, accuracy in ((0.9, 0.2), (0.2, 0.5)):
        path = tmp_path / f"{confidence}.png"
        figures.draw_reliability(np.array([[confidence, accuracy, 1.0]]), path)
        image = drawn(path).copy()
        image[: image.shape[0] // 3, : image.shape[1] // 2] = 255  # The legend.
        rows, columns = np.nonzero(np.abs(image.astype(int) - blue).max(axis=-1) < 8)
        places[confidence] = rows.mean(), columns.mean()
    assert places[0.9][1] > places[0.2][1] + 100  # To the right,
    assert places[0.9][0] > places[0.2][0] + 50  # and below.


BLUE = (31, 119, 180)


def test_bars_are_as_high_as_their_values(tmp_path):
    path = tmp_path / "deep/bars.png"
    heights = {}
    for values in ((10, 40), (40, 10)):
        figures.draw_bars(["short", "long"], values, path, "words", "BLEU")
        image = drawn(path)
        middle = image.shape[1] // 2
        heights[values] = [count(half, BLUE) for half in np.split(image, [middle], 1)]
    left, right = heights[10, 40]
    assert 3 < right / left < 5
    left, right = heights[40, 10]
    assert 3 < left / right < 5


def test_bars_of_nothing_and_of_zero_are_drawn_too(tmp_path):
    figures.draw_bars([], [], tmp_path / "none.png", "words", "BLEU")
    figures.draw_bars(["1 to 8\n(3)"], [0.0], tmp_path / "zero.png", "words", "BLEU")
    assert drawn(tmp_path / "zero.png").std() > 5


DARK = (8, 48, 107)  # What attention of 1 is drawn in.


def align(tmp_path, attention, title="two words\n→ zwei Wörter", number=1, **options):
    attention = np.array(attention, "float32")
    rows, columns = attention.shape
    tokens = [f"▁r{i}" for i in range(columns)], [f"▁w{i}" for i in range(rows)]
    path = tmp_path / "deep/alignments.png"
    figures.draw_alignments(
        [title] * number, [(*tokens, attention)] * number, path, **options
    )
    return drawn(path)


def dark_center(image):
    rows, columns = np.nonzero(np.abs(image.astype(int) - DARK).max(axis=-1) < 8)
    return rows.mean(), columns.mean()


def test_target_tokens_run_downwards_and_source_tokens_to_the_right(tmp_path):
    first = dark_center(align(tmp_path, [[1, 0, 0], [0, 0, 0]]))
    read_later = dark_center(align(tmp_path, [[0, 0, 1], [0, 0, 0]]))
    written_later = dark_center(align(tmp_path, [[0, 0, 0], [1, 0, 0]]))
    assert read_later[1] > first[1] + 100
    assert abs(read_later[0] - first[0]) < 5
    assert written_later[0] > first[0] + 100
    assert abs(written_later[1] - first[1]) < 5


def test_alignments_stand_in_rows(tmp_path):
    attention = np.eye(3)
    one = align(tmp_path, attention).shape
    two = align(tmp_path, attention, number=2).shape
    four = align(tmp_path, attention, number=4).shape
    assert two[1] > 1.8 * one[1]
    assert four[0] > 1.8 * one[0]
    column = align(tmp_path, attention, number=2, columns=1).shape
    assert column[0] > 1.8 * one[0]


def test_alignments_of_nothing_are_drawn_too(tmp_path):
    figures.draw_alignments([], [], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()
    align(tmp_path, np.zeros((0, 1)), title="\n→ ")
    assert align(tmp_path, np.eye(2), title="$\\frac$ " * 99).shape[1] < 1200


@pytest.mark.slow
def test_only_the_first_60_alignments_are_drawn(tmp_path):
    row = align(tmp_path, np.eye(1)).shape[0]
    rows = align(tmp_path, np.eye(1), number=61, columns=20).shape[0] / row
    assert 2.5 < rows < 3.5


def test_only_the_first_tokens_are_aligned(tmp_path):
    np.testing.assert_array_equal(
        align(tmp_path, np.eye(40)), align(tmp_path, np.eye(45))
    )


ORANGE = (255, 165, 0)


def draw_text(tmp_path, tokens, weights, title="a text"):
    path = tmp_path / "deep/texts.png"
    figures.draw_texts([(title, tokens, np.array(weights))], path)
    return drawn(path)


def test_tokens_are_shaded_by_their_weights(tmp_path):
    tokens = ["▁mmmmm", "▁mmmmm"]
    image = draw_text(tmp_path, tokens, [0.0, 0.4])
    assert count(image, ORANGE) > 300  # The strongest has the full colour.
    columns = np.nonzero(np.abs(image.astype(int) - ORANGE).max(axis=-1) < 8)[1]
    assert count(draw_text(tmp_path, tokens, [0.0, 0.0]), ORANGE) == 0
    image = draw_text(tmp_path, tokens, [0.4, 0.0])
    left = np.nonzero(np.abs(image.astype(int) - ORANGE).max(axis=-1) < 8)[1]
    assert left.max() < columns.min()


def test_long_texts_are_broken_into_lines(tmp_path):
    one, three = (
        draw_text(tmp_path, ["▁word"] * number, [0.1] * number).shape
        for number in (18, 50)
    )
    assert three[0] > one[0] + 30
    assert abs(three[1] - one[1]) < 30


def test_formula_characters_are_drawn_as_they_are(tmp_path):
    assert darkness(draw_text(tmp_path, ["▁$\\frac$", "▁$"], [0.5, 0.5])) > 0
    assert darkness(draw_text(tmp_path, ["▁a"], [1.0], title="$\\frac$ 0.9")) > 0


def test_texts_of_nothing_are_drawn_too(tmp_path):
    figures.draw_texts([], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()
    draw_text(tmp_path, [], [])


def test_only_the_first_texts_and_tokens_are_drawn(tmp_path):
    heights = {}
    for texts, tokens in ((1, 200), (1, 250), (60, 1), (61, 1), (59, 1)):
        text = ("title", ["▁longer"] * tokens, np.ones(tokens))
        figures.draw_texts([text] * texts, tmp_path / "many.png")
        heights[texts, tokens] = drawn(tmp_path / "many.png").shape[0]
    assert heights[1, 200] == heights[1, 250] > heights[60, 1] / 60
    assert heights[60, 1] == heights[61, 1] > heights[59, 1]


def test_boxes_are_drawn_where_they_are_with_their_labels(tmp_path):
    grey = encode(np.full((800, 1600, 3), 128, "uint8"))
    red, blue = (200, 30, 30), (30, 30, 200)
    panel = figures.Boxes(
        "an $image_1",
        grey,
        np.array([(160, 240, 800, 720), (960, 0, 1600, 400)]),
        ["cat 0.9", "a $dog_1 0.8"],
        np.array([red, blue], "uint8"),
    )
    path = tmp_path / "deep/boxes.png"
    figures.draw_boxes([panel], path)
    image = drawn(path)
    is_grey = (image == 128).all(axis=-1)
    # Letters have grey borders, but few.
    rows, columns = (np.flatnonzero(is_grey.sum(axis=axis) > 50) for axis in (1, 0))
    inner = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = inner.shape[1] / 1600
    for color, box in zip((red, blue), panel.boxes, strict=True):
        left, top, right, bottom = (scale * box).round().astype(int)
        is_color = np.abs(inner.astype(int) - color).max(axis=-1) < 8
        rows, columns = np.nonzero(is_color)
        sides = columns.min(), columns.max(), rows.max()
        assert sides == pytest.approx((left, right, bottom), abs=4)
        assert is_color.sum() > 2 * (right - left)
        # The label is above the box, or inside it where there is no room.
        label = slice(top - 10, top - 4) if top else slice(4, 10)
        assert (inner[label, left + 4 : left + 20] != 128).all()
        assert (inner[label, right - 20 : right - 4] == 128).all()


def test_any_number_of_images_with_boxes_is_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "MAX_EXAMPLES", 4)
    nothing = figures.Boxes(
        "nothing", encode(np.zeros((90, 30, 3), "uint8")), np.zeros((0, 4)), [], []
    )
    heights = []
    for number in (0, 1, 3, 4, 5):
        figures.draw_boxes([nothing] * number, tmp_path / "boxes.png", columns=2)
        heights.append(len(drawn(tmp_path / "boxes.png")))
    assert heights[0] < heights[1] < heights[2] == heights[3] == heights[4]


def test_precision_is_drawn_against_recall(tmp_path):
    recalls = np.linspace(0, 1, 101)
    precisions = {"cat": 1 - recalls, "a very long name of a class": recalls**3}
    figures.draw_precision_recall(recalls, precisions, tmp_path / "curves.png")
    image = drawn(tmp_path / "curves.png")[:, :400]  # Without the legend.
    for color, sign in zip(figures.class_colors([None] * 2), (1, -1), strict=True):
        is_color = np.abs(image.astype(int) - color).max(axis=-1) < 8
        rows, columns = np.nonzero(is_color)
        assert len(rows) > 300
        assert sign * np.corrcoef(rows, columns)[0, 1] > 0.8


def draw_attention(tmp_path, maps, words=None, titles=("a title",), **options):
    """Draws this attention to white images."""
    white = encode(np.full((80, 80, 3), 255, "uint8"))
    path = tmp_path / "deep/attention.png"
    maps = [[np.array(each, "float32") for each in row] for row in maps]
    words = words or [[f"w{i}" for i in range(len(row))] for row in maps]
    figures.draw_attention([white] * len(maps), words, maps, titles, path, **options)
    return drawn(path)


def shades(image, part):
    """Returns the share of dark grey pixels in a part of an image."""
    grey = (image[part] == 51).all(axis=-1)  # 20 % of white.
    return grey.mean()


def test_what_the_decoder_does_not_look_at_is_dark(tmp_path):
    plain = draw_attention(tmp_path, [[]], columns=2)
    assert shades(plain, np.s_[:]) == 0
    left = [[0.4, 0], [0.4, 0]]
    image = draw_attention(tmp_path, [[left]], columns=2)
    is_dark = (image == 51).all(axis=-1)
    columns = np.flatnonzero(is_dark.sum(axis=0) > 50)
    assert columns.min() > image.shape[1] * 0.7  # The right half of the second one.
    assert len(columns) > 30
    below = draw_attention(tmp_path, [[[[1, 1], [0, 0]]]], columns=2)
    rows = np.flatnonzero((below == 51).all(axis=-1).sum(axis=1) > 50)
    assert rows.min() > below.shape[0] * 0.4
    # Without attention, all is dark.
    dark = draw_attention(tmp_path, [[np.zeros((2, 2))]], columns=2)
    assert shades(dark, np.s_[:]) > 1.8 * shades(image, np.s_[:])


def test_each_image_begins_a_row(tmp_path):
    even = np.ones((2, 2))
    one = draw_attention(tmp_path, [[even] * 3], columns=4)
    two = draw_attention(
        tmp_path, [[even], [even] * 2], titles=["first", "second"], columns=4
    )
    three = draw_attention(tmp_path, [[even] * 9], columns=4)
    assert 1.7 < two.shape[0] / one.shape[0] < 2.4
    assert 2.6 < three.shape[0] / one.shape[0] < 3.6
    assert two.shape[1] == three.shape[1] == one.shape[1]


def test_words_and_titles_stand_above_the_images(monkeypatch, tmp_path):
    titles = []
    monkeypatch.setattr(
        figures.plt.Axes,
        "set_title",
        lambda axis, title, **options: titles.append(title),
    )
    even = np.ones((2, 2))
    long = "a very long caption of thirty letters and more\n($x_1$)"
    draw_attention(
        tmp_path, [[even] * 2, []], [["a", "$dog"], []], [long, "two"], columns=3
    )
    assert titles == [
        "a very long caption of\nthirty letters and more\n($x_1$)",
        *("a", "$dog", "two", "", ""),
    ]


def test_attention_to_nothing_is_drawn_too(tmp_path):
    figures.draw_attention([], [], [], [], tmp_path / "none.png")
    assert (tmp_path / "none.png").exists()
    draw_attention(tmp_path, [[np.ones((1, 1))]], [["$\\frac$"]], ["$\\frac$ 0.9"])


def test_only_the_first_words_are_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(figures, "MAX_ALIGNED_TOKENS", 3)
    monkeypatch.setattr(figures, "MAX_EXAMPLES", 2)
    even = np.ones((2, 2))
    options = {"columns": 2, "titles": ["t"] * 2}
    expected = draw_attention(tmp_path, [[even] * 3] * 2, **options)
    options["titles"] = ["t"] * 4
    image = draw_attention(tmp_path, [[even] * 9] * 4, **options)
    assert image.shape == expected.shape

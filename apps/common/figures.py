"""Figures: training curves, metrics, attention, images, masks and boxes."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("agg")  # Draws to files, without a screen.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay

from apps.common import images, runs

THUMBNAIL_PIXELS = 320
MAX_EXAMPLES = 60
MAX_TOKENS = 200
MAX_ALIGNED_TOKENS = 40
MAX_TITLE_LETTERS = 22  # In each line above an image of a grid,
MAX_WIDE_TITLE_LETTERS = 90  # and above a recording.
PANEL_PIXELS = 640  # The longer side of an image with boxes.
PANEL_INCHES = 5.0  # Its width in a figure.


class Boxes(NamedTuple):
    """An image with labelled boxes, for `draw_boxes`.

    Attributes:
        title: What stands above the image.
        image_bytes: The encoded image.
        boxes: `(n, 4)`: x1, y1, x2, y2 in pixels of the upright image. Small ones are
            drawn on top.
        texts: The label of each box.
        colors: The colour of each box, uint8 `(n, 3)`.
    """

    title: str
    image_bytes: bytes
    boxes: np.ndarray
    texts: Sequence[str]
    colors: np.ndarray


def class_colors(given: Sequence[str | None]) -> np.ndarray:
    """Returns a colour for each class, uint8 `(classes, 3)`.

    Args:
        given: For each class its colour as `#rrggbb`, or None for one of matplotlib's
            colours.
    """
    palette = matplotlib.colormaps["tab20"](range(20))
    colors = [
        matplotlib.colors.to_rgb(color or palette[(2 * i + i // 10) % 20])
        for i, color in enumerate(given)
    ]
    return (255 * np.array(colors)).round().astype("uint8")


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws every metric of a training, together with its validation value.

    Args:
        history: One dictionary of metrics per epoch, as `runs.read_history` returns.
        path: The PNG file to write.
    """
    metrics = [
        name
        for name in history[0]
        if name not in ("epoch", "seconds") and not name.startswith("val_")
    ]
    epochs = [row["epoch"] + 1 for row in history]
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(5 * len(metrics), 4), squeeze=False
    )
    for axis, name in zip(axes[0], metrics, strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            if column in history[0]:
                values = [row.get(column, np.nan) for row in history]
                axis.plot(epochs, values, ".-", label=label)
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def draw_confusion_matrix(
    labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[str], path: Path
) -> None:
    """Draws a confusion matrix.

    Args:
        labels: The true classes, int `(examples,)`.
        predictions: The predicted classes, int `(examples,)`.
        class_names: The names of the classes.
        path: The PNG file to write.
    """
    side = min(max(4, 0.5 * len(class_names) + 2), 40)
    figure, axis = plt.subplots(figsize=(side, side))
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predictions,
        labels=range(len(class_names)),
        display_labels=class_names,
        cmap="Blues",
        colorbar=False,
        xticks_rotation="vertical",
        include_values=len(class_names) <= 30,
        ax=axis,
    )
    _save(figure, path)


def draw_reliability(curve: np.ndarray, path: Path) -> None:
    """Draws a reliability diagram: accuracy against confidence.

    Args:
        curve: The mean confidence, the accuracy and the fraction of the examples of
            each bin, `(bins, 3)`.
        path: The PNG file to write.
    """
    confidence, accuracy, fraction = np.asarray(curve).T
    figure, axis = plt.subplots(figsize=(4.5, 4.5))
    axis.plot([0, 1], [0, 1], ":", color="grey", label="perfectly calibrated")
    axis.plot(confidence, accuracy, "-", color="tab:blue", alpha=0.5)
    axis.scatter(confidence, accuracy, s=600 * fraction + 5, label="answers, by number")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(markerscale=0.5)
    _save(figure, path)


def draw_precision_recall(
    recalls: np.ndarray, precisions: Mapping[str, np.ndarray], path: Path
) -> None:
    """Draws precision against recall, one curve for each class.

    Args:
        recalls: From 0 to 1, `(points,)`.
        precisions: The precisions at these recalls, by the name of the class; the first
            20 are in the legend.
        path: The PNG file to write.
    """
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    colors = class_colors([None] * len(precisions)) / 255
    for i, (name, precision) in enumerate(precisions.items()):
        label = _shorten(name, MAX_TITLE_LETTERS) if i < 20 else None
        axis.plot(recalls, precision, color=colors[i], label=label)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    _save(figure, path)


def draw_texts(
    texts: Sequence[tuple[str, Sequence[str], np.ndarray]],
    path: Path,
    columns: int = 92,
) -> None:
    """Draws texts whose tokens are shaded by their weights.

    Args:
        texts: For each text a title, its tokens and their weights; `▁` at the start of
            a token stands for the space before a word. The first 60 texts are drawn.
        path: The PNG file to write.
        columns: Characters per line.
    """
    placed, line = [], 0  # (line, column, word, shade)
    titles = []
    for title, tokens, weights in texts[:MAX_EXAMPLES]:
        titles.append((line, title))
        line, column = line + 1, 0
        strongest = max(np.max(weights, initial=0), 1e-9)
        for token, weight in zip(tokens[:MAX_TOKENS], weights, strict=False):
            word = token.removeprefix("▁")
            if column and word != token:
                column += 1  # The space before a word.
            if column + len(word) > columns and column:
                line, column = line + 1, 0
            placed.append((line, column, word, weight / strongest))
            column += len(word)
        line += 2
    # A character of 11 points is 0.602 times as wide as high.
    figure = plt.figure(figsize=(columns * 11 * 0.602 / 72, max(line, 1) * 0.24))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, columns), ylim=(max(line, 1), -0.5))
    axis.axis("off")
    style = {"family": "monospace", "fontsize": 11, "va": "center"}
    for line, title in titles:
        axis.text(0, line, title, color="tab:blue", parse_math=False, **style)
    for line, column, word, shade in placed:
        axis.add_patch(
            Rectangle(
                (column, line - 0.45), len(word), 0.9, color="orange", alpha=shade, lw=0
            )
        )
        axis.text(column, line, word, parse_math=False, **style)
    _save(figure, path)


def draw_bars(
    names: Sequence[str],
    values: Sequence[float],
    path: Path,
    x_label: str,
    y_label: str,
) -> None:
    """Draws a bar chart with the values on top of the bars.

    Args:
        names: The names of the bars.
        values: Their heights.
        path: The PNG file to write.
        x_label: The label of the horizontal axis.
        y_label: The label of the vertical axis.
    """
    figure, axis = plt.subplots(figsize=(1.1 * len(names) + 2, 4))
    axis.bar_label(axis.bar(names, values, color="tab:blue"), fmt="%.1f")
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    _save(figure, path)


def draw_alignments(
    titles: Sequence[str],
    alignments: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]],
    path: Path,
    columns: int = 3,
) -> None:
    """Draws the attention between source and target tokens.

    Args:
        titles: One title for each alignment; it may have several lines.
        alignments: The source tokens, the target tokens and the attention, float32
            `(target_steps, source_steps)`, from 0 to 1. `▁` at the start of a token
            stands for the space before a word. The first 60 alignments are drawn, with
            the first 40 tokens of each side.
        path: The PNG file to write.
        columns: Alignments per row.
    """
    alignments = alignments[:MAX_EXAMPLES]
    columns = min(columns, max(len(alignments), 1))
    rows = -(-max(len(alignments), 1) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(6 * columns, 5.5 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(alignments) :]:
        axis.axis("off")
    for axis, title, (source, target, attention) in zip(
        axes.flat, titles, alignments, strict=False
    ):
        source, target = source[:MAX_ALIGNED_TOKENS], target[:MAX_ALIGNED_TOKENS]
        attention = attention[: len(target), : len(source)]
        if attention.size:
            axis.imshow(attention, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(source)), source, rotation=90, parse_math=False)
        axis.set_yticks(range(len(target)), target, parse_math=False)
        lines = [textwrap.shorten(line, 70) for line in title.split("\n")]
        axis.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False)
    _save(figure, path)


def draw_attention(
    encoded_images: Sequence[bytes],
    texts: Sequence[Sequence[str]],
    attention: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    path: Path,
    columns: int = 9,
) -> None:
    """Draws where a decoder looks in an image, word by word.

    Args:
        encoded_images: The encoded images; the first 60 are drawn.
        texts: The words of each image; the first 40 are drawn.
        attention: For each word a map, float32 `(rows, columns)`; the largest value of
            a map is white.
        titles: One title for each image; it may have several lines.
        path: The PNG file to write.
        columns: Drawings per row; the first one of each image is the plain image.
    """
    panels: list[tuple[np.ndarray, np.ndarray | None, str]] = []
    shown = zip(encoded_images, texts, attention, titles, strict=True)
    for encoded, words, maps, title in list(shown)[:MAX_EXAMPLES]:
        image = thumbnail(encoded)
        panels.append((image, None, title))
        pairs = zip(words[:MAX_ALIGNED_TOKENS], maps, strict=False)
        panels += [(image, heat, word) for word, heat in pairs]
        # The next image begins a row.
        panels += [(image[:0], None, "")] * (-len(panels) % columns)
    rows = max(1, len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2 * columns, 2.5 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, heat, title) in zip(axes.flat, panels, strict=False):
        if image.size:
            axis.imshow(image, interpolation="antialiased")
        if heat is not None:
            height, width = image.shape[:2]
            heat = np.asarray(Image.fromarray(heat).resize((width, height)))
            heat = heat / max(heat.max(), np.finfo("float32").tiny)
            # Darkens what the decoder does not look at.
            shade = np.zeros((height, width, 4))
            shade[..., 3] = 0.8 * (1 - heat.clip(0, 1))
            axis.imshow(shade)
        lines = [line for each in title.split("\n") for line in textwrap.wrap(each, 26)]
        axis.set_title("\n".join(lines), fontsize=8, loc="left", parse_math=False)
    _save(figure, path)


def draw_recordings(
    recordings: Sequence[tuple[str, np.ndarray, Sequence[tuple[float, float, str]]]],
    rate: int,
    path: Path,
) -> None:
    """Draws the waveform, the spectrogram and the words of recordings.

    Args:
        recordings: For each a title, its samples, `(samples,)`, and the start, the end
            and the text of each word, in seconds. Words after the samples are not
            drawn.
        rate: The sampling rate.
        path: The PNG file to write.
    """
    figure, axes = plt.subplots(
        2 * len(recordings),
        1,
        figsize=(10, 3.2 * len(recordings)),
        squeeze=False,
        layout="constrained",
        height_ratios=[1, 2] * len(recordings),
    )
    for i, (title, samples, words) in enumerate(recordings):
        above, below = axes[2 * i : 2 * i + 2, 0]
        seconds = len(samples) / rate
        above.plot(np.arange(len(samples)) / rate, samples, lw=0.4, color="tab:blue")
        above.set_title(
            _shorten(title, MAX_WIDE_TITLE_LETTERS), loc="left", parse_math=False
        )
        above.set(xticks=[], yticks=[])
        # A little noise, because silence has no logarithm.
        padded = np.random.default_rng(0).normal(0, 1e-6, max(256, len(samples)))
        padded[: len(samples)] += samples
        below.specgram(
            padded, NFFT=256, Fs=rate, noverlap=192, cmap="magma", vmin=-140, vmax=-30
        )
        below.set(ylabel="hertz", xlabel="seconds" if i + 1 == len(recordings) else "")
        for axis in (above, below):
            axis.set_xlim(0, seconds)
        for start, end, word in words:
            if start >= seconds:
                break
            for axis in (above, below):
                axis.axvspan(start, min(end, seconds), color="tab:orange", alpha=0.15)
            below.text(
                (start + min(end, seconds)) / 2,
                rate * 0.46,
                word,
                ha="center",
                va="top",
                color="white",
                fontsize=10,
                parse_math=False,
            )
    _save(figure, path)


def draw_grid(
    encoded_images: Sequence[bytes],
    titles: Sequence[str],
    path: Path,
    heat_maps: Sequence[np.ndarray] | None = None,
    columns: int = 6,
) -> None:
    """Draws a grid of images with a title above each.

    Args:
        encoded_images: The encoded images; the first 60 are drawn.
        titles: One title for each image; it may have several lines. Long lines lose
            their middle.
        path: The PNG file to write.
        heat_maps: Optional maps, float32 `(rows, columns)` from 0 to 1. Each image is
            drawn twice, plain and with its map; 1 is yellow.
        columns: Drawings per row; an even number if there are heat maps.
    """
    drawings: list[tuple[np.ndarray, np.ndarray | None, str]] = []
    for i, encoded in enumerate(encoded_images[:MAX_EXAMPLES]):
        image = thumbnail(encoded)
        lines = [_shorten(line, MAX_TITLE_LETTERS) for line in titles[i].split("\n")]
        drawings.append((image, None, "\n".join(lines)))
        if heat_maps is not None:
            drawings.append((image, heat_maps[i], ""))
    columns = min(columns, max(len(drawings), 1))
    rows = -(-max(len(drawings), 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.9 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, (image, heat_map, title) in zip(axes.flat, drawings, strict=False):
        height, width = image.shape[:2]
        # Tiny images show their pixels.
        axis.imshow(image, interpolation="nearest" if width < 64 else "antialiased")
        if heat_map is not None:
            heat = np.asarray(Image.fromarray(heat_map).resize((width, height)))
            heat = heat.clip(0, 1)
            axis.imshow(heat, cmap="autumn", alpha=0.7 * heat, vmin=0, vmax=1)
        axis.set_title(title, fontsize=9, parse_math=False)
    if not drawings:
        axes[0, 0].set_title("none")
    _save(figure, path)


def draw_rows(
    rows: Sequence[tuple[str, Sequence[np.ndarray]]],
    path: Path,
    titles: Sequence[str],
    legend: Sequence[tuple[str, np.ndarray]] = (),
) -> None:
    """Draws rows of images, with a title above each column and a name beside each row.

    Args:
        rows: For each row its name and its images, uint8 `(height, width, 3)`; the
            first 60 are drawn.
        path: The PNG file to write.
        titles: One title for each column.
        legend: Names and their colours, uint8 `(3,)`, drawn at the bottom.
    """
    rows = rows[:MAX_EXAMPLES]
    figure, axes = plt.subplots(
        max(len(rows), 1),
        len(titles),
        figsize=(4 * len(titles), 3.2 * max(len(rows), 1)),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    for row, (name, drawings) in zip(axes, rows, strict=False):
        row[0].set_ylabel(name, fontsize=9)
        for axis, image in zip(row, drawings, strict=True):
            is_tiny = image.shape[1] < 128  # Tiny images show their pixels.
            axis.imshow(image, interpolation="nearest" if is_tiny else "antialiased")
    if legend:
        patches = [Patch(color=color / 255, label=name) for name, color in legend]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=6, frameon=False
        )
    _save(figure, path)


def draw_boxes(panels: Sequence[Boxes], path: Path, columns: int = 3) -> None:
    """Draws a grid of images with labelled boxes.

    Args:
        panels: The images; the first 60 are drawn.
        path: The PNG file to write.
        columns: Images per row.
    """
    panels = panels[:MAX_EXAMPLES]
    columns = min(columns, max(len(panels), 1))
    drawings = [thumbnail(panel.image_bytes, PANEL_PIXELS) for panel in panels]
    # Each row is as high as its highest image.
    shapes = [max(0.4, min(2.5, each.shape[0] / each.shape[1])) for each in drawings]
    heights = [
        PANEL_INCHES * max(shapes[start : start + columns])
        for start in range(0, len(shapes), columns)
    ] or [1.0]
    figure, axes = plt.subplots(
        len(heights),
        columns,
        figsize=(PANEL_INCHES * columns, sum(heights) + 0.4 * len(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, panel, image in zip(axes.flat, panels, drawings, strict=False):
        is_tiny = image.shape[1] < 128  # Tiny images show their pixels.
        axis.imshow(image, interpolation="nearest" if is_tiny else "antialiased")
        axis.set_title(
            _shorten(panel.title, 2 * MAX_TITLE_LETTERS),
            fontsize=9,
            loc="left",
            parse_math=False,
        )
        _draw_boxes_on(axis, panel, image)
    _save(figure, path)


def _draw_boxes_on(axis, panel, image):
    """Draws the boxes of a panel on its image, uint8 `(height, width, 3)`."""
    height, width = image.shape[:2]
    columns, rows = images.upright_size(panel.image_bytes)
    scale = np.array([width / columns, height / rows] * 2)
    # Pixel 0 of an image reaches from -0.5 to 0.5.
    boxes = np.asarray(panel.boxes, float).reshape(-1, 4) * scale - 0.5
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i in np.argsort(-areas, kind="stable"):
        x1, y1, x2, y2 = boxes[i]
        color = panel.colors[i] / 255
        axis.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.8, edgecolor=color)
        )
        # Above the box, or inside it where there is no room.
        has_room = y1 > 0.05 * height
        brightness = color @ (0.3, 0.59, 0.11)
        axis.text(
            max(x1, 0),
            y1,
            panel.texts[i],
            fontsize=7.5,
            va="bottom" if has_room else "top",
            color="black" if brightness > 0.55 else "white",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
            parse_math=False,
            clip_on=True,
        )


def overlay(
    image_bytes: bytes, mask: np.ndarray, colors: np.ndarray, opacity: float = 0.6
) -> np.ndarray:
    """Draws the colours of a mask over its image.

    Args:
        image_bytes: An encoded image.
        mask: Class numbers, uint8 `(height, width)`; numbers without a colour leave the
            image as it is.
        colors: One colour for each class, uint8 `(classes, 3)`.
        opacity: The opacity of the colours.

    Returns:
        uint8 `(height, width, 3)`, of the size of `thumbnail`.
    """
    image = thumbnail(image_bytes)
    size = (image.shape[1], image.shape[0])
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    has_color = (mask < len(colors))[..., None]
    painted = colors[np.minimum(mask, len(colors) - 1)]
    mixed = (1 - opacity) * image + opacity * painted
    return np.where(has_color, mixed, image).astype("uint8")


def thumbnail(image_bytes: bytes, max_side: int = THUMBNAIL_PIXELS) -> np.ndarray:
    """Decodes an image for drawing, and shrinks it if it is large.

    Args:
        image_bytes: An encoded image.
        max_side: The longest side that the result may have, in pixels.

    Returns:
        uint8 `(height, width, 3)`, upright.
    """
    pixels = np.asarray(images.decode_image(image_bytes)).round().astype("uint8")
    image = Image.fromarray(pixels)
    image.thumbnail((max_side, max_side))
    return np.asarray(image)


def _shorten(line, max_letters):
    """Returns a line without its middle if it is long."""
    if len(line) <= max_letters:
        return line
    half = (max_letters - 1) // 2
    return f"{line[:half]}…{line[-half:]}"


def _save(figure, path):
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(path, file.getvalue())

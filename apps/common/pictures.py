"""Pictures of what models learn and answer."""

import io
import textwrap

import matplotlib

matplotlib.use("agg")  # Draws files; needs no screen.

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay

THUMBNAIL_PIXELS = 320
MOST_IMAGES = 60
MOST_PIECES = 200
MOST_ALIGNED = 40


def class_colors(given):
    """Returns a colour for each class, uint8 `(classes, 3)`.

    Args:
        given: For each class its colour as `#rrggbb`, or None for one of matplotlib's.
    """
    palette = matplotlib.colormaps["tab20"].colors
    colors = [
        matplotlib.colors.to_rgb(color or palette[(2 * i + i // 10) % 20])
        for i, color in enumerate(given)
    ]
    return (255 * np.array(colors)).round().astype("uint8")


def draw_curves(history, path):
    """Draws every metric of a training, with its validation value if there is one.

    Args:
        history: One dictionary of numbers per epoch, as from `runs.read_history`.
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
                axis.plot(epochs, [row[column] for row in history], ".-", label=label)
        axis.set(title=name, xlabel="epoch")
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)


def draw_confusion_matrix(labels, predictions, class_names, path):
    """Draws how often each class was taken for which.

    Args:
        labels: The right classes, int `(examples,)`.
        predictions: The answers, int `(examples,)`.
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


def draw_reliability(curve, path):
    """Draws how often a model is right against how sure it is.

    Args:
        curve: The mean confidence, the accuracy and the share of the examples of each
            bin, `(bins, 3)`.
        path: The PNG file to write.
    """
    confidence, accuracy, share = np.asarray(curve).T
    figure, axis = plt.subplots(figsize=(4.5, 4.5))
    axis.plot([0, 1], [0, 1], ":", color="grey", label="perfectly calibrated")
    axis.plot(confidence, accuracy, "-", color="tab:blue", alpha=0.5)
    axis.scatter(confidence, accuracy, s=600 * share + 5, label="answers, by number")
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(markerscale=0.5)
    _save(figure, path)


def draw_texts(texts, path, columns=92):
    """Draws texts whose pieces are shaded by their weights.

    Args:
        texts: For each text a title, its pieces and their weights; `▁` at the start of
            a piece stands for the space before a word. The first 60 are drawn.
        path: The PNG file to write.
        columns: Letters in a line.
    """
    placed, line = [], 0  # (line, column, piece, shade)
    titles = []
    for title, pieces, weights in texts[:MOST_IMAGES]:
        titles.append((line, title))
        line, column = line + 1, 0
        strongest = max(np.max(weights, initial=0), 1e-9)
        for piece, weight in zip(pieces[:MOST_PIECES], weights, strict=False):
            word = piece.removeprefix("▁")
            if column and word != piece:
                column += 1  # The space before a word.
            if column + len(word) > columns and column:
                line, column = line + 1, 0
            placed.append((line, column, word, weight / strongest))
            column += len(word)
        line += 2
    # As wide as the letters are, 0.6 of their height of 11 points.
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


def draw_bars(names, values, path, x_label, y_label):
    """Draws a bar for each value, with its number on top.

    Args:
        names: What the values are of.
        values: Numbers.
        path: The PNG file to write.
        x_label: What the names are.
        y_label: What the values are.
    """
    figure, axis = plt.subplots(figsize=(1.1 * len(names) + 2, 4))
    axis.bar_label(axis.bar(names, values, color="tab:blue"), fmt="%.1f")
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.grid(alpha=0.3, axis="y")
    axis.set_axisbelow(True)
    _save(figure, path)


def draw_alignments(titles, alignments, path, columns=3):
    """Draws where attention went as each piece was written.

    Args:
        titles: One text for each alignment; it may have several lines.
        alignments: The pieces read, those written, and their attention, float32
            `(written, read)`, from 0 to 1; `▁` at the start of a piece stands
            for the space before a word. The first 60 are drawn, of each at most the
            first 40 pieces.
        path: The PNG file to write.
        columns: Alignments in a row.
    """
    alignments = alignments[:MOST_IMAGES]
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
    for axis, title, (read, written, attention) in zip(
        axes.flat, titles, alignments, strict=False
    ):
        read, written = read[:MOST_ALIGNED], written[:MOST_ALIGNED]
        attention = attention[: len(written), : len(read)]
        if attention.size:
            axis.imshow(attention, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_xticks(range(len(read)), read, rotation=90, parse_math=False)
        axis.set_yticks(range(len(written)), written, parse_math=False)
        lines = [textwrap.shorten(line, 70) for line in title.split("\n")]
        axis.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False)
    _save(figure, path)


def draw_grid(encoded_images, titles, path, heats=None, columns=6):
    """Draws images in rows, with a title each.

    Args:
        encoded_images: The images, as bytes; the first 60 are drawn.
        titles: One text each; it may have several lines.
        path: The PNG file to write.
        heats: Optional maps, float32 `(rows, columns)` from 0 to 1, laid over the
            images; the stronger, the yellower.
        columns: Images in a row.
    """
    encoded_images = encoded_images[:MOST_IMAGES]
    columns = min(columns, max(len(encoded_images), 1))
    rows = -(-max(len(encoded_images), 1) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.4 * columns, 2.9 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, encoded, title) in enumerate(
        zip(axes.flat, encoded_images, titles, strict=False)
    ):
        image = thumbnail(encoded)
        height, width = image.shape[:2]
        # Tiny images show their pixels.
        axis.imshow(image, interpolation="nearest" if width < 64 else "antialiased")
        if heats is not None:
            heat = np.asarray(Image.fromarray(heats[i]).resize((width, height)))
            heat = heat.clip(0, 1)
            axis.imshow(heat, cmap="autumn", alpha=0.7 * heat, vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
    if not encoded_images:
        axes[0, 0].set_title("none")
    _save(figure, path)


def draw_rows(rows, path, titles, legend=()):
    """Draws pictures in rows, with a title over each column and a text beside each row.

    Args:
        rows: For each row its text and its pictures, uint8 `(height, width, 3)`; the
            first 60 are drawn.
        path: The PNG file to write.
        titles: One text for each column.
        legend: Names and their colours, uint8 `(3,)`, shown below.
    """
    rows = rows[:MOST_IMAGES]
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
    for row, (text, pictures) in zip(axes, rows, strict=False):
        row[0].set_ylabel(text, fontsize=9)
        for axis, picture in zip(row, pictures, strict=True):
            small = picture.shape[1] < 128  # Tiny images show their pixels.
            axis.imshow(picture, interpolation="nearest" if small else "antialiased")
    if legend:
        patches = [Patch(color=color / 255, label=name) for name, color in legend]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=6, frameon=False
        )
    _save(figure, path)


def overlay(image_bytes, mask, colors, opacity=0.6):
    """Lays the colours of a mask over its image.

    Args:
        image_bytes: An encoded image.
        mask: Numbers of classes, uint8 `(height, width)`; those without a colour leave
            the image as it is.
        colors: One colour for each class, uint8 `(classes, 3)`.
        opacity: How much of the image the colours cover.

    Returns:
        uint8 `(height, width, 3)`, made smaller as by `thumbnail`.
    """
    image = thumbnail(image_bytes)
    size = (image.shape[1], image.shape[0])
    mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    known = (mask < len(colors))[..., None]
    painted = colors[np.minimum(mask, len(colors) - 1)]
    mixed = (1 - opacity) * image + opacity * painted
    return np.where(known, mixed, image).astype("uint8")


def thumbnail(image_bytes):
    """Decodes an image for drawing; large ones are made smaller.

    Args:
        image_bytes: An encoded image.

    Returns:
        uint8 `(height, width, 3)`.
    """
    with Image.open(io.BytesIO(image_bytes)) as image:
        if image.mode.startswith("I"):  # 16 bits; Pillow would clip them.
            image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
        image = image.convert("RGBA")
        image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        white = Image.new("RGBA", image.size, "white")
        return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def _save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)

"""Pictures of labels: colors, overlays, and the panel that shows how a pseudo label came about."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Color = tuple[int, ...]
Palette = Sequence[Sequence[int]]
UInt8 = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.floating]

# What VOC's own pictures show where there is no label.
_IGNORE_COLOR = (224, 224, 192)
_GAP = 4
_FONT_SIZE = 13
_LINE = 20


def colorize(labels: UInt8, palette: Palette) -> UInt8:
    """Colors class ids.

    Args:
      labels: uint8 [...]; ids without a color, such as 255 (ignore), become a pale yellow.
      palette: (red, green, blue) of each class.

    Returns:
      uint8 [..., 3].
    """
    return _color_table(palette)[labels]


def overlay(
    image: UInt8, labels: UInt8, palette: Palette, alpha: float = 0.5, background: bool = True
) -> UInt8:
    """Tints an image with the colors of its labels; background and ignored pixels stay as they are.

    Args:
      image: uint8 [..., H, W, 3].
      labels: uint8 [..., H, W].
      palette: (red, green, blue) of each class.
      alpha: share of the color, in [0, 1].
      background: class 0 is the background.

    Returns:
      uint8 of the image's shape.
    """
    tinted = np.rint((1 - alpha) * image + alpha * colorize(labels, palette)).astype(np.uint8)
    return np.where(((labels >= background) & (labels != IGNORE_LABEL))[..., None], tinted, image)


def class_heat(cam: Scores, palette: Palette, background: bool = True) -> UInt8:
    """Colors class maps: each cell in the color of its highest score, as bright as that is high.

    Args:
      cam: [..., K] in [0, 1].
      palette: (red, green, blue) of each class.
      background: class 0 is the background, which has no map: K is one less than there are classes.

    Returns:
      uint8 [..., 3].
    """
    colors = colorize((cam.argmax(axis=-1) + background).astype(np.uint8), palette)
    return np.rint(colors * cam.max(axis=-1, keepdims=True)).astype(np.uint8)


def save_palette_png(path: str | os.PathLike[str], labels: UInt8, palette: Palette) -> None:
    """Writes class ids as a PNG of mode P: viewers show the colors, readers get the ids.

    Args:
      path: file to write; it is replaced as a whole or not at all.
      labels: uint8 [H, W].
      palette: (red, green, blue) of each class.
    """
    _save_picture(palette_picture(labels, palette), Path(path))


def palette_picture(labels: UInt8, palette: Palette) -> Image.Image:
    """Class ids, uint8 [H, W], as an image of mode P."""
    picture = Image.fromarray(labels)
    picture.putpalette(_color_table(palette).tobytes())
    return picture


def save_image(path: str | os.PathLike[str], image: UInt8) -> None:
    """Writes uint8 [H, W, 3] as PNG or JPEG, as the name says; replaces the file as a whole or not at all."""
    _save_picture(Image.fromarray(image), Path(path))


def plain_text(text: str) -> str:
    """A name as matplotlib is to show it: it takes what stands between dollar signs for a formula."""
    return text.replace("$", r"\$")


def save_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Writes a matplotlib figure as PNG; replaces the file as a whole or not at all.

    Raises:
      UserError: the file cannot be written.
    """
    _save(Path(path), lambda temporary: figure.savefig(temporary, format="png"))


def figure_pixels(figure: Figure) -> UInt8:
    """A matplotlib figure as uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def pseudo_label_panel(
    *,
    images: Sequence[UInt8],
    weak: UInt8,
    strong: UInt8,
    cam: Scores,
    sgc: Scores,
    decoder: Scores,
    pseudo: Scores,
    labels: UInt8,
    palette: Palette,
    class_names: Sequence[str],
    examples: int = 4,
    tile: int = 192,
) -> UInt8:
    """Draws how pseudo labels came about: one row an example, one titled column a stage, and a legend.

    Args:
      images: uint8 [h, w, 3] each, the images that the views were made of; of any sizes.
      weak: uint8 [B, H, W, 3], the weak view.
      strong: uint8 [B, H, W, 3], the strong view.
      cam: [B, h, w, K] in [0, 1], Grad-CAM, see ``class_heat``.
      sgc: [B, h, w, C], scores after self-attention.
      decoder: [B, h, w, C], scores of the decoder.
      pseudo: [B, h, w, C], the pseudo label, soft or hard.
      labels: uint8 [B, H, W], the true labels, 255 where they are not known.
      palette: (red, green, blue) of each class.
      class_names: the legend names the classes that occur.
      examples: rows at most; the first of the batch.
      tile: longer side of each picture in pixels.

    Returns:
      uint8 [rows, columns, 3].
    """
    ids = {
        "SGC": _best(sgc[:examples]),
        "decoder": _best(decoder[:examples]),
        "pseudo label": _best(pseudo[:examples]),
        "ground truth": labels[:examples],
    }
    background = sgc.shape[-1] > cam.shape[-1]
    columns: dict[str, Sequence[UInt8] | UInt8] = {
        "image": [_framed(image, weak.shape[1:3]) for image in images[:examples]],
        "weak view": weak[:examples],
        "strong view": strong[:examples],
        "Grad-CAM": class_heat(cam[:examples], palette, background),
        **{title: colorize(each, palette) for title, each in ids.items()},
    }

    occurring = np.unique(np.concatenate([each.ravel() for each in ids.values()]))
    return picture_grid(columns, tile=tile, legend=class_legend(occurring, palette, class_names))


def picture_grid(
    columns: Mapping[str, Sequence[UInt8] | UInt8],
    *,
    tile: int = 192,
    legend: Sequence[tuple[str, Color]] = (),
) -> UInt8:
    """Draws pictures of one size in titled columns.

    Args:
      columns: title -> the pictures below it, uint8 [H, W, 3] each; as many in each column.
      tile: longer side of each picture in pixels.
      legend: names and colors below the pictures, see ``class_legend``.

    Returns:
      uint8 [rows, columns, 3].
    """
    first = next(iter(columns.values()))
    shape = np.array(first[0].shape[:2])
    height, width = (int(side) for side in np.maximum(1, np.rint(shape * tile / shape.max())))
    left = [_GAP + column * (width + _GAP) for column in range(len(columns))]
    top = [_LINE + row * (height + _GAP) for row in range(len(first))]
    canvas_width = left[-1] + width + _GAP
    places, bottom = _flow(legend, canvas_width, top[-1] + height + _GAP)

    panel = Image.new("RGB", (canvas_width, bottom), "white")
    draw = ImageDraw.Draw(panel)
    for x, (title, pictures) in zip(left, columns.items(), strict=True):
        draw.text((x + width / 2, _LINE / 2), title, "black", _font(), anchor="mm")
        for y, picture in zip(top, pictures, strict=True):
            # Maps keep their cells visible; what is not enlarged is resampled.
            coarse = picture.shape[0] < height
            filtering = Image.Resampling.NEAREST if coarse else Image.Resampling.BILINEAR
            panel.paste(Image.fromarray(picture).resize((width, height), filtering), (x, y))
            # Else a white picture would look like none.
            draw.rectangle((x - 1, y - 1, x + width, y + height), outline="lightgray")
    for (name, color), (x, y) in zip(legend, places, strict=True):
        draw.rectangle((x, y + 4, x + 11, y + 15), fill=color, outline="gray")
        draw.text((x + 17, y + _LINE / 2), name, "black", _font(), anchor="lm")
    return np.asarray(panel)


def class_legend(ids: UInt8, palette: Palette, class_names: Sequence[str]) -> list[tuple[str, Color]]:
    """Name and color of each of the class ids, for ``picture_grid``."""
    known = [(class_names[index], tuple(palette[index])) for index in ids if index < len(class_names)]
    return known + ([("not labeled", _IGNORE_COLOR)] if IGNORE_LABEL in ids else [])


def _color_table(palette: Palette) -> UInt8:
    """uint8 [256, 3]: the color of every id."""
    table = np.full((256, 3), _IGNORE_COLOR, np.uint8)
    table[: len(palette)] = palette
    return table


def _best(scores: Scores) -> UInt8:
    return scores.argmax(axis=-1).astype(np.uint8)


def _framed(image: UInt8, shape: tuple[int, ...]) -> UInt8:
    """The whole image on white, of the proportions of ``shape``, height and width."""
    height, width = image.shape[:2]
    factor = max(height / shape[0], width / shape[1])
    frame = np.full([max(1, round(side * factor)) for side in shape] + [3], 255, np.uint8)
    top, left = (frame.shape[0] - height) // 2, (frame.shape[1] - width) // 2
    frame[top : top + height, left : left + width] = image
    return frame


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)


def _flow(legend: Sequence[tuple[str, Color]], width: int, top: int) -> tuple[list[tuple[int, int]], int]:
    """Places legend entries line by line from ``top``; returns their corners and where the last line ends."""
    places = []
    x = _GAP
    for name, _ in legend:
        needed = 17 + round(_font().getlength(name)) + 14
        if x > _GAP and x + needed > width:
            x, top = _GAP, top + _LINE
        places.append((x, top))
        x += needed
    return places, top + _LINE


def _save_picture(picture: Image.Image, path: Path) -> None:
    # Pillow ignores the options that a format does not have.
    _save(path, lambda temporary: picture.save(temporary, quality=92))


def _save(path: Path, write: Callable[[Path], None]) -> None:
    # Without the name, which may be as long as names can be.
    temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)

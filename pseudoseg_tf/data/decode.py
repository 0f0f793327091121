"""Encoded images and masks to arrays. What cannot be right is refused by name, never trained on."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from pseudoseg_tf.data.specs import CLASS_IDS, IGNORE_LABEL, Color, MaskEncoding, Record
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_bytes

# Far above any photograph; stops a small file that claims to be a huge picture before memory is taken.
MAX_PIXELS = 1 << 26
# More than an image of so many pixels takes, unless its compression does nothing.
MAX_FILE_BYTES = 1 << 28

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# A PNG file's bit depth and color type stand at fixed places of its header; color type 0 is grey.
_PNG_DEPTH, _PNG_COLOR_TYPE = 24, 25

# Damaged EXIF data does not make a picture unusable, and a program says what it has to say in lines of its own.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")
_EXIF_ORIENTATION = 0x0112
# What undoes each orientation a camera writes; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_encoded(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of an image file.

    Raises:
      UserError: it cannot be read, or is over MAX_FILE_BYTES.
    """
    return read_bytes(path, MAX_FILE_BYTES)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes a JPEG or PNG file to RGB, upright.

    Grey, palette and CMYK pictures become RGB, of 16-bit values the high byte stays, alpha is dropped.

    Args:
      data: the file's content.
      name: what error messages call it.

    Returns:
      uint8 [height, width, 3].

    Raises:
      UserError: not a JPEG or PNG file, more than MAX_FILE_BYTES or MAX_PIXELS pixels, or damaged.
    """
    _check_bytes(data, f"image {name}")
    image = _open(io.BytesIO(data), f"image {name}")
    try:
        turn = _UPRIGHT.get(_orientation(image))
        # Only alpha would need it, and converting a palette that has it makes Pillow warn.
        image.info.pop("transparency", None)
        if image.mode.startswith("I"):
            pixels = np.asarray(image) >> 8
            upright: Image.Image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        else:
            # Converting copies what is RGB already.
            upright = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(upright if turn is None else upright.transpose(turn))
    except Exception as error:  # Pillow raises many types for damaged content.
        raise _damaged(f"image {name}", error) from error


def decode_mask(data: bytes, name: str, num_classes: int, encoding: MaskEncoding = CLASS_IDS) -> np.ndarray:
    """Decodes a PNG mask to class ids.

    Grey levels and palette indices are the ids, or black and white where the encoding says so. RGB masks are
    read by the colors of the encoding.

    Args:
      data: the file's content.
      name: what error messages call it.
      num_classes: number of classes, background included.
      encoding: what the pixels mean.

    Returns:
      uint8 [height, width] of ids below num_classes and IGNORE_LABEL.

    Raises:
      UserError: not a PNG file, one with alpha or of more than 8 bits a channel, of more than MAX_FILE_BYTES or
        MAX_PIXELS pixels, or damaged; it holds other values or colors; a palette PNG shows an id in the color of
        another class; or there are two classes and a grey mask of 0 and 255 alone that is not declared as binary.
    """
    _check_bytes(data, f"mask {name}")
    image = _open(io.BytesIO(data), f"mask {name}")
    if not isinstance(image, PngImagePlugin.PngImageFile):
        raise UserError(f"mask {name}: a JPEG file, whose compression changes class ids; save masks as PNG")
    by_colors = image.mode == "RGB" and bool(encoding.colors)
    if data[_PNG_DEPTH] == 16 or not (by_colors or image.mode in ("1", "L", "P")):
        raise _wrong_kind(name, "16-bit values" if data[_PNG_DEPTH] == 16 else image.mode, encoding)
    try:
        pixels = np.asarray(image, np.uint8)
    except Exception as error:  # Pillow raises many types for damaged content.
        raise _damaged(f"mask {name}", error) from error
    if by_colors:
        return _ids_of_colors(pixels, name, encoding.colors)
    depth = data[_PNG_DEPTH]
    if data[_PNG_COLOR_TYPE] == 0 and depth in (2, 4):
        # Pillow stretches these grey levels to 0..255; the ids are the levels as stored.
        pixels = pixels // (255 // (2**depth - 1))
    if image.mode == "P" and encoding.binary:
        pixels = _levels_of_black_and_white(image, pixels)
    if image.mode == "P" and encoding.colors:
        _check_palette(image, pixels, name, encoding.colors)
    if encoding.binary:
        return _ids_of_black_and_white(pixels, name)
    _check_values(pixels, name, num_classes, image.mode)
    return pixels


def decode_record(record: Record, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a record's image and mask.

    Returns:
      image uint8 [height, width, 3] and labels uint8 [height, width], all IGNORE_LABEL without a mask.

    Raises:
      UserError: as `decode_image` and `decode_mask`, or image and mask differ in size.
    """
    image_name, mask_name = record.image_name or record.id, record.mask_name or record.id
    image = decode_image(record.image, image_name)
    if record.mask is None:
        return image, np.full(image.shape[:2], IGNORE_LABEL, np.uint8)
    labels = decode_mask(record.mask, mask_name, num_classes, record.encoding)
    check_same_size(f"image {image_name}", image.shape[:2], f"mask {mask_name}", labels.shape)
    return image, labels


def check_sizes(image: BinaryIO, image_name: str, mask: BinaryIO, mask_name: str) -> None:
    """Compares the sizes of an image and its mask by their headers; decodes nothing.

    Args:
      image: JPEG or PNG file, open for reading at its start.
      image_name: what error messages call it.
      mask: PNG file, open for reading at its start.
      mask_name: what error messages call it.

    Raises:
      UserError: the sizes differ, or a file is not JPEG or PNG, damaged or too large.
    """
    opened = _open(image, image_name)
    width, height = opened.size
    rotated = _orientation(opened) >= 5
    image_size = (width, height) if rotated else (height, width)
    width, height = _open(mask, mask_name).size
    hint = " after the rotation its EXIF data asks for" if rotated else ""
    check_same_size(image_name, image_size, mask_name, (height, width), hint)


def check_same_size(
    image_name: str, image_size: tuple[int, ...], mask_name: str, mask_size: tuple[int, ...], hint: str = ""
) -> None:
    """Raises UserError, naming both, if an image and its mask differ in (height, width); `hint` explains the first."""
    if image_size != mask_size:
        raise UserError(
            f"{image_name} is {image_size[1]}x{image_size[0]} pixels (width x height){hint}, but {mask_name} is "
            f"{mask_size[1]}x{mask_size[0]}; they must be equal"
        )


def _check_bytes(data: bytes, name: str) -> None:
    """As `read_encoded` does for files: records hold images of any size."""
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{name}: {len(data):,} bytes, at most {MAX_FILE_BYTES:,} are read; shrink it")


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Reads the header only."""
    magic = file.read(len(_PNG_MAGIC))
    file.seek(0)
    if not magic:
        raise UserError(f"{name}: the file is empty; replace it")
    try:
        # Image.open would try further formats, and warn of large pictures on its own terms.
        if magic.startswith(_JPEG_MAGIC):
            image: ImageFile.ImageFile = JpegImagePlugin.JpegImageFile(file)
        elif magic == _PNG_MAGIC:
            image = PngImagePlugin.PngImageFile(file)
        else:
            raise UserError(f"{name}: neither a JPEG nor a PNG file; convert it to one of them")
    except UserError:
        raise
    except Exception as error:  # Pillow raises many types for damaged content.
        raise _damaged(name, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name}: {width}x{height} pixels (width x height), at most {MAX_PIXELS:,} in all are read; "
            "cut or shrink it"
        )
    return image


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    # Asked for the EXIF data of a PNG file without any in its header, Pillow would decode the whole file.
    if "exif" not in image.info:
        return 1
    try:
        orientation = int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # Damaged EXIF data does not make a picture unusable.
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _ids_of_colors(pixels: np.ndarray, name: str, colors: Mapping[Color, int]) -> np.ndarray:
    """Looks up uint8 [height, width, 3]; returns uint8 [height, width]."""
    codes = _color_codes(pixels)
    known, ids = _color_codes(np.array(list(colors))), np.array(list(colors.values()), np.uint8)
    order = np.argsort(known)
    known, ids = known[order], ids[order]
    found = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    strange = known[found] != codes
    if strange.any():
        row, column = np.argwhere(strange)[0]
        color = pixels[row, column]
        nearest = min(colors, key=lambda each: ((np.array(each) - color) ** 2).sum())
        means = "ignored" if colors[nearest] == IGNORE_LABEL else f"class {colors[nearest]}"
        raise UserError(
            f"mask {name}: the color {_spaced(color)} at row {row}, column {column} ({strange.sum()} of "
            f"{strange.size} pixels have such colors) is none of data.palette, nearest: {_spaced(nearest)} "
            f"({means}); add it there, as 'ignore' if it is no class, or save the mask without smoothing"
        )
    return ids[found]


def _color_codes(colors: np.ndarray) -> np.ndarray:
    """One number for each (red, green, blue); integer [..., 3] to int32 [...]."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _levels_of_black_and_white(image: Image.Image, pixels: np.ndarray) -> np.ndarray:
    """A palette picture in black and white as 0 and 255, whichever index is which; else its indices."""
    levels = np.asarray(image.convert("RGB"))
    grey = levels[..., 0]
    plain = (levels == grey[..., np.newaxis]).all() and set(np.unique(grey).tolist()) <= {0, 255}
    return grey if plain else pixels


def _ids_of_black_and_white(pixels: np.ndarray, name: str) -> np.ndarray:
    """White is 255, in 1-bit files 1. Takes and returns uint8 [height, width]."""
    seen = np.unique(pixels)
    if not (set(seen) <= {0, 255} or set(seen) <= {0, 1}):
        raise UserError(
            f"mask {name}: pixel values {_listed(seen)}; with data.binary_masks=true they must be 0 and 255: "
            "save the mask without smoothing, or class ids without data.binary_masks"
        )
    return (pixels > 0).astype(np.uint8)


def _check_palette(
    image: ImageFile.ImageFile, pixels: np.ndarray, name: str, colors: Mapping[Color, int]
) -> None:
    """Refuses palette indices that cannot be class ids, since their colors are those of other classes."""
    values = image.getpalette("RGB") or []
    own = dict(enumerate(zip(values[0::3], values[1::3], values[2::3], strict=True)))
    for index in np.unique(pixels).tolist():
        color = own.get(index)
        if color is not None and colors.get(color, index) != index:
            raise UserError(
                f"mask {name}: palette index {index} has the color {_spaced(color)}, which data.palette gives to "
                f"class id {colors[color]}; save the mask as RGB, or with class ids as palette indices"
            )


def _check_values(labels: np.ndarray, name: str, num_classes: int, mode: str) -> None:
    ignored = labels == IGNORE_LABEL
    if ((labels >= num_classes) & ~ignored).any():
        # Cityscapes comes with masks of 34 ids beside those of the 19 that are learned.
        largest = labels[~ignored].max()
        cityscapes = num_classes == 19 and largest < 34
        from_one = largest == num_classes and labels.min() > 0
        one_more = largest == num_classes and labels.min() == 0
        values = np.unique(labels)
        # More than pictures have of ids that are merely others.
        blurred = len(values) > max(32, num_classes)
        raise UserError(
            f"mask {name}: pixel values {_listed(values)}; allowed are the class ids 0 to "
            f"{num_classes - 1} and {IGNORE_LABEL} (ignored): save class ids as pixel values, or name all classes"
            + (" (Cityscapes: take the labelTrainIds files, not labelIds)" if cityscapes else "")
            + (" (so many come of JPEG or of interpolation: resize by nearest neighbor)" if blurred else "")
            + (
                " (one id more than names: does data.classes lack one, such as the background?)"
                if one_more
                else ""
            )
            + (" (no pixel is 0: do your ids begin at 1? Then subtract 1)" if from_one else "")
        )
    # A palette has colors of its own: there 255 is an index, as in pseudo labels, and not white.
    if mode == "L" and num_classes == 2 and ignored.any() and (labels == 0).any() and not (labels == 1).any():
        raise UserError(
            f"mask {name}: pixel values 0 and {IGNORE_LABEL} alone, where {IGNORE_LABEL} means ignored: save the "
            "object as 1, not as white, or set data.binary_masks=true"
        )


def _wrong_kind(name: str, kind: str, encoding: MaskEncoding) -> UserError:
    kinds = {"RGB": "a color picture", "RGBA": "a color picture with alpha", "LA": "grey with alpha"}
    mend = "save it as an 8-bit grey or palette PNG whose pixel values are class ids"
    if kind == "RGB":
        mend += ", or name a file of the classes' colors in data.palette"
    elif encoding.colors:
        mend += ", or as RGB in the colors of data.palette"
    return UserError(
        f"mask {name}: stored as {kinds.get(kind, kind)}; a mask holds one class id per pixel: {mend}"
    )


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:12])) + (", ..." if len(values) > 12 else "")


def _spaced(color: Iterable[int]) -> str:
    return " ".join(map(str, color))


def _damaged(name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{name}: damaged ({reason}); replace the file")

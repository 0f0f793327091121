"""The text files people write about a data set: class names and colors, image-level labels, and how ids are spelled."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import os
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from pseudoseg_tf.data.specs import IGNORE_LABEL, Color, MaskEncoding
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_bytes

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

# A list of a million ids has some 30 MiB.
_MAX_BYTES = 1 << 26


def canonical_id(text: str) -> str:
    """Returns an id as sources spell it: no image extension, no "./" or doubled slash."""
    stem, suffix = posixpath.splitext(posixpath.normpath(text))
    return stem if suffix.lower() in IMAGE_SUFFIXES else stem + suffix


def read_lines(path: str | os.PathLike[str], key: str) -> list[str]:
    """Reads a text file; a byte-order mark and Windows line ends are fine.

    Args:
      path: the file.
      key: the configuration key that names it, for error messages.

    Returns:
      Its lines without surrounding white space, blank lines included as "".

    Raises:
      UserError: the path is empty or cannot be read, or the file is over 64 MiB or not UTF-8 text.
    """
    if not os.fspath(path):
        raise UserError(f"{key} is empty; it must name a text file")
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8-sig")
    except UserError as error:
        raise UserError(f"{key}: {error}; give a text file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{key}: {path}, line {line}: not UTF-8; save it as text in UTF-8") from error
    if "\0" in text:
        raise UserError(f"{key}: {path} holds NUL characters; give a text file in UTF-8")
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads class names, one a line: line k, counted from 0, names class id k.

    Raises:
      UserError: the file cannot be read, a name is repeated, a blank line stands between names (the ids would
        be in doubt), or there are fewer than 2 or more than 255 names.
    """
    lines = read_lines(path, "data.classes")
    while lines and not lines[-1]:
        lines.pop()
    first_line: dict[str, int] = {}
    for number, name in enumerate(lines, 1):
        if not name:
            raise UserError(
                f"data.classes: {path} line {number} is blank, so the ids of the names below are in doubt; "
                "remove it or name the class"
            )
        if name in first_line:
            raise UserError(
                f"data.classes: {path} names {name!r} in lines {first_line[name]} and {number}; "
                "each class needs a name of its own"
            )
        first_line[name] = number
    if not 2 <= len(lines) <= IGNORE_LABEL:
        raise UserError(
            f"data.classes: {path} holds {len(lines)} names; it needs 2 to {IGNORE_LABEL}, one a line, "
            "the background, if there is one, first"
        )
    return tuple(lines)


@dataclasses.dataclass(frozen=True)
class Palette:
    """Classes and their colors, as a palette file lists them.

    Attributes:
      class_names: one name per class id, in order of the ids.
      colors: one color per class id.
      ignore: the color of ignored pixels, if the file names one.
    """

    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore: Color | None

    def encoding(self) -> MaskEncoding:
        """How color masks are read."""
        ids = {color: class_id for class_id, color in enumerate(self.colors)}
        return MaskEncoding(ids if self.ignore is None else {**ids, self.ignore: IGNORE_LABEL})


def read_palette(path: str | os.PathLike[str], class_names: tuple[str, ...] = ()) -> Palette:
    """Reads the colors of the classes, one `name red green blue` a line, in order of the class ids.

    A line `ignore red green blue`, wherever it stands, is the color of ignored pixels. Names may hold spaces.

    Args:
      path: the file.
      class_names: the names that must stand there; () takes those of the file.

    Raises:
      UserError: the file cannot be read, a line has another form, a value is not from 0 to 255, a name or
        color is repeated, the names are others than `class_names`, or fewer than 2 or more than 255.
    """
    key = "data.palette"
    colors: dict[str, Color] = {}
    for number, line in enumerate(read_lines(path, key), 1):
        if not line:
            continue
        where = f"{key}: {path} line {number}"
        name, *values = line.rsplit(maxsplit=3)
        if len(values) != 3 or not all(map(_is_byte, values)):
            raise UserError(f"{where} is {line!r}; it needs a class name and three numbers from 0 to 255")
        red, green, blue = map(int, values)
        if name in colors:
            raise UserError(f"{where} names {name!r} again; each class needs a line of its own")
        if (red, green, blue) in colors.values():
            other = next(other for other in colors if colors[other] == (red, green, blue))
            raise UserError(f"{where} gives {name!r} the color of {other!r}; each class needs its own")
        colors[name] = red, green, blue
    ignore = colors.pop("ignore", None)
    names = tuple(colors)
    for class_id, (name, expected) in enumerate(zip(names, class_names, strict=False)):
        if name != expected:
            raise UserError(
                f"{key}: {path} names {name!r} for class id {class_id}, data.classes {expected!r}; both list the "
                "same names in the same order"
            )
    if class_names and len(names) != len(class_names):
        raise UserError(
            f"{key}: {path} colors {len(names)} classes, data.classes names {len(class_names)}; both list the "
            "same names in the same order"
        )
    if not 2 <= len(names) <= IGNORE_LABEL:
        raise UserError(f"{key}: {path} names {len(names)} classes; it needs 2 to {IGNORE_LABEL}")
    return Palette(names, tuple(colors.values()), ignore)


def _is_byte(text: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,3}", text)) and int(text) <= 255


def read_image_labels(path: str | os.PathLike[str], image_classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads image-level labels from a CSV file of rows `id,name,name,...`, without a header row.

    A row may name no class: the image then shows the background only.

    Args:
      path: the file.
      image_classes: names of the classes but the background, see `DatasetInfo.image_classes`.

    Returns:
      By canonical id, float32 [len(image_classes)]: 1 for the classes named.

    Raises:
      UserError: the file cannot be read, a row has no id or that of an earlier row, or an unknown class.
    """
    labels: dict[str, np.ndarray] = {}
    form = "id,name,name,..."
    for number, cells in _csv_rows(path, "data.image_labels", form):
        where = f"data.image_labels: {path} line {number}"
        first, *names = cells
        if not first:
            raise UserError(f"{where} has no id; a row is {form}")
        record_id = canonical_id(first)
        if record_id in labels:
            raise UserError(f"{where} repeats the id {record_id!r}; give all its classes in one row")
        present = np.zeros(len(image_classes), np.float32)
        for name in filter(None, names):
            if name not in image_classes:
                header = not labels and not set(names) & set(image_classes)
                raise UserError(
                    f"{where} names {name!r}, which is not a class of data.classes other than the "
                    f"background{nearest_hint(name, image_classes)}"
                    + ("; if this is a header row, leave it out" if header else "")
                )
            present[image_classes.index(name)] = 1
        labels[record_id] = present
    return labels


def read_category_classes(path: str | os.PathLike[str], image_classes: Collection[str]) -> dict[str, str]:
    """Reads which class each category of COCO's annotations is, from a CSV file of rows `category,class`.

    Without a class behind the comma the category is none. The category `*` stands for all that have no row.

    Args:
      path: the file.
      image_classes: names of the classes but the background, see `DatasetInfo.image_classes`.

    Returns:
      By category, the name of its class, or "".

    Raises:
      UserError: the file cannot be read, a row has another form, repeats a category or names an unknown class.
    """
    key, form = "data.category_classes", "category,class"
    classes: dict[str, str] = {}
    for number, cells in _csv_rows(path, key, form):
        where = f"{key}: {path} line {number}"
        if len(cells) != 2 or not cells[0]:
            raise UserError(
                f"{where} is {','.join(cells)!r}; a row is {form} (nothing behind the comma: no class)"
            )
        category, name = cells
        if category in classes:
            raise UserError(f"{where} repeats the category {category!r}; each may stand once")
        if name and name not in image_classes:
            raise UserError(
                f"{where} names {name!r}, which is not a class of the data set other than the "
                f"background{nearest_hint(name, image_classes)}"
            )
        classes[category] = name
    return classes


def _csv_rows(path: str | os.PathLike[str], key: str, form: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the cells, without surrounding white space, of each line that is not blank."""
    # Lines are parsed one by one, so that a stray quote spoils one row and not the rest of the file.
    for number, line in enumerate(read_lines(path, key), 1):
        if not line:
            continue
        where = f"{key}: {path} line {number}"
        try:
            cells = [cell.strip() for cell in next(csv.reader([line]))]
        except csv.Error as error:
            raise UserError(f"{where} is not a CSV row ({error}); a row is {form}") from error
        separator = next(
            (name for mark, name in ((";", "semicolons"), ("\t", "tabs")) if mark in cells[0]), ""
        )
        if len(cells) == 1 and separator:
            raise UserError(f"{where} is {line!r}, with {separator}; a row is {form}, with commas")
        yield number, cells


def nearest_hint(word: str, known: Collection[str]) -> str:
    """Returns " (did you mean 'x'?)" for the known word nearest to a mistaken one, or "" if none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""

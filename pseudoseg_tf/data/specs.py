"""What a data set is to the rest of the package: named, colored classes, and encoded records by index."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pseudoseg_tf.errors import UserError

# Pixels with this label belong to no class: they enter neither a loss nor a score.
IGNORE_LABEL = 255

# Red, green, blue; 0 to 255 each.
Color = tuple[int, int, int]


def voc_palette(num_colors: int) -> tuple[Color, ...]:
    """Returns the first colors of the PASCAL VOC color map, which spreads any number of ids over RGB.

    Args:
      num_colors: how many ids to color, 1 to 256.

    Returns:
      One (red, green, blue) per id, 0 to 255 each; id 0 is black.
    """
    # Bits 0, 1, 2 of the id become the top bits of red, green, blue, bits 3, 4, 5 the next ones, and so on.
    palette = []
    for index in range(num_colors):
        red = green = blue = 0
        for level in range(8):
            bits = index >> (3 * level)
            red |= (bits & 1) << (7 - level)
            green |= (bits >> 1 & 1) << (7 - level)
            blue |= (bits >> 2 & 1) << (7 - level)
        palette.append((red, green, blue))
    return tuple(palette)


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The classes of a data set.

    Attributes:
      class_names: one name per class id, in order of the ids.
      palette: one (red, green, blue), 0 to 255, per class id, for pictures.
      name: what the data set is called in logs and file names.
      has_background: class 0 is the background: what is none of the other classes, and no image-level label.
    """

    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    name: str
    has_background: bool = True

    def __post_init__(self) -> None:
        if len(self.class_names) != len(self.palette):
            raise ValueError(f"{len(self.class_names)} class names but {len(self.palette)} colors")

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @property
    def background(self) -> str:
        """In words, which class is the background."""
        return f"class 0 {self.class_names[0]!r}" if self.has_background else "none"

    @property
    def image_classes(self) -> tuple[str, ...]:
        """The classes that image-level labels speak of: all but the background."""
        return self.class_names[self.has_background :]

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {
            "name": self.name,
            "class_names": list(self.class_names),
            "palette": [list(color) for color in self.palette],
            "background": 0 if self.has_background else None,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DatasetInfo:
        """Returns the info that `to_json` wrote.

        Raises:
          UserError: a key is missing or its value has another form.
        """
        try:
            palette = tuple((int(red), int(green), int(blue)) for red, green, blue in values["palette"])
            if not all(0 <= value <= 255 for color in palette for value in color):
                raise ValueError("colors are numbers from 0 to 255")
            if not 2 <= len(palette) <= IGNORE_LABEL:
                raise ValueError(f"{len(palette)} colors, there must be 2 to {IGNORE_LABEL}")
            return cls(
                class_names=tuple(str(name) for name in values["class_names"]),
                palette=palette,
                name=str(values["name"]),
                # Descriptions that do not say have one.
                has_background=values.get("background", 0) is not None,
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"data set description is damaged ({type(error).__name__}: {error}): it needs name, "
                "class_names and one palette color [red, green, blue] per class; restore it from the run"
            ) from error


@dataclasses.dataclass(frozen=True)
class MaskEncoding:
    """What the pixels of mask files mean. By default grey levels and palette indices are class ids.

    Attributes:
      colors: class id, or IGNORE_LABEL, of each (red, green, blue) of color masks; empty: there are none.
      binary: masks are black and white, 0 the background and 255 class 1; nothing is ignored.
    """

    colors: Mapping[Color, int] = dataclasses.field(default_factory=dict)
    binary: bool = False


CLASS_IDS = MaskEncoding()


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as stored, nothing decoded.

    Attributes:
      id: unique within its source; relative to the image folder, without file extension.
      image: JPEG or PNG file content.
      mask: PNG file content; None for an image without pixel labels.
      image_labels: float32, one for each of the info's `image_classes`: 1 where the class is in the image,
        else 0; None where image-level labels are not given.
      encoding: what the pixels of the mask mean.
      image_name, mask_name: what error messages call the files; "": the id.
    """

    id: str
    image: bytes
    mask: bytes | None
    image_labels: np.ndarray | None
    encoding: MaskEncoding = CLASS_IDS
    image_name: str = ""
    mask_name: str = ""


class Source(Protocol):
    """Random access to the records of a list, a split or shards; `read` may be called from any thread."""

    @property
    def info(self) -> DatasetInfo:
        """The classes."""

    @property
    def ids(self) -> Sequence[str]:
        """The id of each record, in order."""

    @property
    def has_masks(self) -> bool:
        """Whether every record carries a mask."""

    def __len__(self) -> int:
        """Number of records."""

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask; reads nothing."""

    def read(self, index: int) -> Record:
        """Returns record `index`, 0 <= index < len(self).

        Raises:
          UserError: the files changed since the source was opened.
        """

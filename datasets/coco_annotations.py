"""An annotation file of COCO: which images it names, and the objects of each painted into one mask."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as codes
from pycocotools.coco import COCO

from pseudoseg_tf.data.decode import MAX_PIXELS
from pseudoseg_tf.data.specs import IGNORE_LABEL
from pseudoseg_tf.data.splits import check_unique
from pseudoseg_tf.errors import UserError

from .published import read_bytes

_NOT_WHOLE = "run lengths that do not add up to the image"


class Annotations:
    """The content of instances_train2017.json or a file of that form.

    Attributes:
      path: the file.
      file_names: of the images, sorted.
    """

    def __init__(
        self, path: Path, object_names: Sequence[str], class_of: Callable[[str], int | None]
    ) -> None:
        """Reads the file.

        Args:
          path: the file.
          object_names: what its categories must be called, in order of their ids.
          class_of: returns the class id to paint objects of a name with; None: they are not painted.

        Raises:
          UserError: the file cannot be read, names no image, or has another form or other categories.
        """
        self.path = path
        try:
            dataset = json.loads(read_bytes(path))
            names = [category["name"] for category in sorted(dataset["categories"], key=lambda c: c["id"])]
            self._images = {image["file_name"]: image for image in dataset["images"]}
            self.file_names = sorted(image["file_name"] for image in dataset["images"])
            unsafe = [
                name for name in self.file_names if Path(name).name != name or not name.endswith(".jpg")
            ]
            self._coco = _index(dataset)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: no annotation file of COCO ({type(error).__name__}: {error}); unpack its archive again"
            ) from error
        if names != list(object_names):
            raise UserError(
                f"{path}: its {len(names)} categories are not the {len(object_names)} objects of COCO 2017; give its "
                "instances file"
            )
        if not self.file_names:
            raise UserError(f"{path}: names no image; it must name one or more")
        if unsafe:
            raise UserError(f"{path}: names the image {unsafe[0]!r}; a name is NAME.jpg, without folders")
        check_unique(self.file_names, str(path))
        self._class_of = {key: class_of(category["name"]) for key, category in self._coco.cats.items()}

    def labels(self, file_name: str) -> np.ndarray:
        """Returns the mask of an image.

        Smaller objects lie on larger ones; what is annotated as a crowd is 255 where no object lies on it; the rest is
        0. Objects without a class are left out, so that what lies under them is seen.

        Returns:
          uint8 [height, width] of class ids and 255.

        Raises:
          UserError: size or annotations of the image make no sense.
        """
        image = self._images[file_name]
        where = f"{self.path}: image {file_name}"
        try:
            size = int(image["height"]), int(image["width"])
            if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
                raise ValueError(f"{size[1]}x{size[0]} pixels")
            crowds: list[np.ndarray] = []
            objects: list[tuple[np.ndarray, int]] = []
            for annotation in self._coco.imgToAnns[image["id"]]:
                where = f"{self.path}: annotation {annotation['id']} of {file_name}"
                class_id = self._class_of[annotation["category_id"]]
                if class_id is not None:
                    mask = self._mask(annotation, size)
                    if annotation["iscrowd"]:
                        crowds.append(mask)
                    else:
                        objects.append((mask, class_id))
        except Exception as error:  # What is wrong inside an outline, pycocotools says with many types.
            raise UserError(
                f"{where}: cannot be painted ({type(error).__name__}: {error}); unpack its archive again"
            ) from error
        labels = np.zeros(size, np.uint8)
        for mask in crowds:
            labels[mask] = IGNORE_LABEL
        for mask, class_id in sorted(objects, key=lambda item: -item[0].sum()):
            labels[mask] = class_id
        return labels

    def _mask(self, annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Returns bool [height, width]; an outline that makes no sense raises an exception of some type."""
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            # Points and lines cover nothing; pycocotools would take four numbers as a box.
            polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
            if not polygons:
                return np.zeros(size, bool)
            for polygon in polygons:
                _check_polygon(polygon, size)
            return self._coco.annToMask({**annotation, "segmentation": polygons}).astype(bool)
        if list(segmentation["size"]) != list(size):
            raise ValueError(f"run lengths of size {segmentation['size']}, the image has {list(size)}")
        counts = segmentation["counts"]
        if isinstance(counts, list) and (min(counts) < 0 or sum(counts) != size[0] * size[1]):
            raise ValueError(_NOT_WHOLE)
        mask = self._coco.annToMask(annotation)
        # Behind the end of a compressed code pycocotools leaves what was in memory.
        if isinstance(counts, str) and codes.encode(np.asfortranarray(mask))["counts"] != counts.encode():
            raise ValueError(_NOT_WHOLE)
        return mask.astype(bool)


def _index(dataset: Mapping[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):  # It tells that it is at work.
        coco.createIndex()
    return coco


def _check_polygon(polygon: Any, size: tuple[int, int]) -> None:
    """Refuses, with ValueError, what is no list of points, or would take much memory to fill."""
    points = np.asarray(polygon, float)
    if points.ndim != 1 or points.size % 2:
        raise ValueError("a polygon is x, y, x, y and so on")
    if not (np.abs(points) <= 2 * max(size)).all():
        raise ValueError("a polygon leaves the image")

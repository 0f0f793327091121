"""Image-level labels from the annotations of COCO: which categories have an object in an image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pseudoseg_tf.data.text import canonical_id, nearest_hint
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json
from pseudoseg_tf.progress import Progress

# instances_train2017.json has 448 MiB.
_MAX_BYTES = 1 << 30
# From here on reading takes long enough to say so.
_LARGE_BYTES = 1 << 25


def read_coco_image_labels(
    path: str | os.PathLike[str],
    image_classes: Sequence[str],
    category_classes: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Reads image-level labels from an instances_*.json of COCO.

    A class is in an image if an object of the category of that name is annotated there. Crowd regions do not
    count: the masks made of these annotations ignore their pixels, so a mask would not show the class either. A
    small object that others cover counts, though a mask may not show it.

    Args:
      path: the file.
      image_classes: names of the classes but the background, see `DatasetInfo.image_classes`.
      category_classes: see `text.read_category_classes`; None: each category is the class of its name.

    Returns:
      By file name without ending (000000177254), float32 [len(image_classes)]: 1 for the classes present. An
      image without objects has zeros.

    Raises:
      UserError: the file cannot be read, is over 1 GiB, is no JSON or not in COCO's form, names a file twice, or
        an object's category is no class.
    """
    where = f"data.image_labels: {path}"
    with Progress(1, where) as progress:
        if os.path.isfile(path) and os.path.getsize(path) > _LARGE_BYTES:
            progress.note(f"{where}: reading {os.path.getsize(path) >> 20} MiB")
        try:
            content = read_json(path, _MAX_BYTES)
        except UserError as error:
            raise UserError(f"data.image_labels: {error}") from error
    labels: dict[str, np.ndarray] = {}
    by_image: dict[Any, np.ndarray] = {}
    for image, file_name in _entries(content, "images", {"id": int, "file_name": str}, where):
        name = canonical_id(os.path.basename(file_name))
        if name in labels or image in by_image:
            raise UserError(f"{where}: images names {file_name!r} or its id twice; each image may stand once")
        labels[name] = by_image[image] = np.zeros(len(image_classes), np.float32)
    categories = dict(_entries(content, "categories", {"id": int, "name": str}, where))
    needed = {"image_id": int, "category_id": int, "iscrowd": int}
    for image, category, is_crowd in _entries(content, "annotations", needed, where):
        if image not in by_image or category not in categories:
            raise UserError(
                f"{where}: an annotation is of image {image} and category {category}, of which one is not in "
                "the file; take the file as published"
            )
        if not is_crowd:
            name = _class_name(categories[category], image_classes, category_classes or {}, where)
            if name:
                by_image[image][image_classes.index(name)] = 1
    return labels


def _class_name(
    category: str, image_classes: Sequence[str], category_classes: Mapping[str, str], where: str
) -> str:
    """The class of a category; "" if it is none."""
    name = category_classes.get(category, category_classes.get("*", category))
    if name and name not in image_classes:
        raise UserError(
            f"{where}: category {category!r} is not a class of the data set other than the "
            f"background{nearest_hint(category, image_classes)}; say in data.category_classes, a file of rows "
            "category,class, which class each is, if any"
        )
    return name


def _entries(content: Any, key: str, needed: Mapping[str, type], where: str) -> Iterator[tuple[Any, ...]]:
    """Yields the needed values of each object of a list, which must have the types given."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(
            f"{where} has no list {key!r}; give COCO's annotations, such as instances_train2017.json"
        )
    with Progress(len(entries), f"{where}: {key}") as progress:
        for position, entry in enumerate(entries):
            values = tuple(entry.get(name) for name in needed) if isinstance(entry, dict) else ()
            if not values or not all(map(isinstance, values, needed.values())):
                names = ", ".join(f"{name} ({kind.__name__})" for name, kind in needed.items())
                raise UserError(
                    f"{where}: {key}[{position}] lacks one of {names}; take the file as published"
                )
            yield values
            progress.update()

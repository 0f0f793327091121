"""Sources made of a source: some of its records, and its records with image-level labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pseudoseg_tf.data.specs import DatasetInfo, Record, Source
from pseudoseg_tf.data.text import canonical_id
from pseudoseg_tf.errors import UserError


class Selection:
    """Some records of a source, in an order of their own.

    Attributes:
      info: the classes.
      ids: the id of each record, in order.
      has_masks: whether every record selected carries a mask.
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        """Takes the source and the positions in it."""
        self._source = source
        self._indices = tuple(indices)
        self.info: DatasetInfo = source.info
        self.ids = tuple(source.ids[index] for index in self._indices)
        self.has_masks = all(map(source.has_mask, self._indices))

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        return self._source.has_mask(self._indices[index])

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        return self._source.read(self._indices[index])


def select(source: Source, ids: Sequence[str], where: str, base: str) -> Selection:
    """Returns the records of a list of ids, in the list's order.

    Args:
      source: holds the records.
      ids: as a list file has them.
      where: key and value that name the list, for error messages.
      base: what error messages call the source.

    Raises:
      UserError: an id is not in the source.
    """
    wanted = [canonical_id(record_id) for record_id in ids]
    positions = {record_id: index for index, record_id in enumerate(source.ids)}
    missing = [record_id for record_id in wanted if record_id not in positions]
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(wanted)} ids are not among the {len(source)} records of {base}, "
            f"first {missing[0]!r} (there, for example: {source.ids[0]!r}); give the whole data set if this is "
            "a part of it, or a list of what is there"
        )
    return Selection(source, [positions[record_id] for record_id in wanted])


def check_masks_are_there(source: Source, where: str) -> None:
    """Raises UserError if a record has no mask; `where` opens the message."""
    if not source.has_masks:
        lacking = [record_id for k, record_id in enumerate(source.ids) if not source.has_mask(k)]
        raise UserError(
            f"{where}: {len(lacking)} of {len(source)} records have no mask, first {lacking[0]!r}; name records "
            "with masks"
        )


def without(source: Source, ids: Sequence[str]) -> Selection:
    """Returns the records whose ids are not among `ids`, in the order of the source."""
    excluded = set(ids)
    return Selection(source, [k for k, record_id in enumerate(source.ids) if record_id not in excluded])


class OfAnotherDataSet:
    """The images of a source for a run with classes of its own; the masks only where both have the same classes.

    Attributes:
      info: the classes of the run.
      ids: the id of each record, in order.
      has_masks: whether every record carries a mask that the run can read.
    """

    def __init__(self, source: Source, info: DatasetInfo) -> None:
        """Takes the source and the classes of the run."""
        self._source = source
        self._same_classes = source.info.class_names == info.class_names
        self.info = info
        self.ids: Sequence[str] = source.ids
        self.has_masks = self._same_classes and source.has_masks

    def __len__(self) -> int:
        return len(self._source)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries such a mask."""
        return self._same_classes and self._source.has_mask(index)

    def read(self, index: int) -> Record:
        """Returns record `index`, without a mask of other classes."""
        record = self._source.read(index)
        return record if self._same_classes else dataclasses.replace(record, mask=None)


class ImageLabeled:
    """The records of a source with the image-level labels that a file gives them.

    Attributes:
      info: the classes.
      ids: the id of each record, in order.
      has_masks: whether every record carries a mask.
    """

    def __init__(self, source: Source, image_labels: Mapping[str, np.ndarray]) -> None:
        """Takes the source, and float32 [num_classes - 1] by id; ids without an entry have none."""
        self._source = source
        self._image_labels = image_labels
        self.info: DatasetInfo = source.info
        self.ids: Sequence[str] = source.ids
        self.has_masks: bool = source.has_masks

    def __len__(self) -> int:
        return len(self._source)

    def image_labels(self, index: int) -> np.ndarray | None:
        """Returns the labels given to record `index`, float32 [num_classes - 1], or None."""
        return self._image_labels.get(self.ids[index])

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        return self._source.has_mask(index)

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        return dataclasses.replace(self._source.read(index), image_labels=self.image_labels(index))

"""Labeled images joined by images whose masks a teacher predicted: what the student of self-training learns from."""

from __future__ import annotations

import os
import posixpath

from pseudoseg_tf.data.bad_examples import listed
from pseudoseg_tf.data.decode import read_encoded
from pseudoseg_tf.data.selection import Selection, without
from pseudoseg_tf.data.specs import DatasetInfo, Record, Source
from pseudoseg_tf.data.splits import check_disjoint
from pseudoseg_tf.errors import UserError

# In a folder of pseudo labels: the images that have none, because they cannot be read; a list of `BadExamples`.
BAD_EXAMPLES = "bad_examples.txt"


def mask_path(root: str | os.PathLike[str], record_id: str, ending: str = ".png") -> str:
    """Where the pseudo label of an image, or another picture made of it, lies: ROOT/ID.png.

    Raises:
      UserError: the id would lead out of the folder.
    """
    if posixpath.isabs(record_id) or ".." in record_id.split("/") or "\0" in record_id:
        raise UserError(
            f"{record_id!r}: an id whose pictures would lie outside of {os.fspath(root)}; rename it"
        )
    return os.path.join(root, f"{record_id}{ending}")


class PseudoLabeledSource:
    """The records of a source with masks from a folder in place of their own, if they have any.

    Attributes:
      info: the classes.
      ids: of the records.
      has_masks: True.
    """

    has_masks = True

    def __init__(self, source: Source, root: str) -> None:
        """Finds the masks.

        Args:
          source: the images.
          root: folder of masks, see `mask_path`.

        Raises:
          UserError: a mask is missing.
        """
        self.info: DatasetInfo = source.info
        self.ids = tuple(source.ids)
        self._source = source
        self._paths = [mask_path(root, record_id) for record_id in self.ids]
        missing = [path for path in self._paths if not os.path.isfile(path)]
        if missing:
            raise UserError(
                f"data.pseudo_labels: {len(missing)} of {len(self.ids)} images have no mask in {root}, first "
                f"{missing[0]}; pseudoseg-self-train writes those that are missing"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        """Returns True."""
        return True

    def read(self, index: int) -> Record:
        """Returns record `index`.

        Raises:
          UserError: a file cannot be read any more.
        """
        record = self._source.read(index)
        path = self._paths[index]
        # Without the encoding of other masks: these hold class ids.
        return Record(
            record.id,
            record.image,
            read_encoded(path),
            record.image_labels,
            image_name=record.image_name,
            mask_name=path,
        )


class JoinedSource:
    """The records of one source some times over, then those of another.

    Attributes:
      info: the classes.
      ids: of the records; those of the first source repeat.
      has_masks: whether every record carries a mask.
    """

    def __init__(self, first: Source, times: int, second: Source) -> None:
        """Joins sources of the same classes."""
        self.info: DatasetInfo = first.info
        self.ids = (*(tuple(first.ids) * times), *second.ids)
        self.has_masks = first.has_masks and second.has_masks
        self._first = first
        self._second = second
        self._repeated = len(first) * times

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        source, position = self._place(index)
        return source.has_mask(position)

    def read(self, index: int) -> Record:
        """Returns record `index`."""
        source, position = self._place(index)
        return source.read(position)

    def _place(self, index: int) -> tuple[Source, int]:
        if index < self._repeated:
            return self._first, index % len(self._first)
        return self._second, index - self._repeated


def not_labeled(unlabeled: Source, labeled: Source) -> Selection:
    """Returns the unlabeled images that are not labeled ones too, in order.

    Raises:
      UserError: there is none.
    """
    others = without(unlabeled, labeled.ids)
    if not len(others):
        raise UserError(
            f"data.unlabeled: all {len(unlabeled)} images are in data.labeled too; self-training needs others"
        )
    return others


def join_pseudo_labeled(
    labeled: Source, unlabeled: Source, val: Source, root: str, times: int
) -> JoinedSource:
    """What the student learns from: the labeled images and, with their pseudo labels, the unlabeled ones.

    Args:
      labeled: `data.labeled`.
      unlabeled: `data.unlabeled`; labeled images among them keep their masks and do not count twice.
      val: `data.val`.
      root: `data.pseudo_labels`; what its list of bad examples names is left out.
      times: `data.repeat_labeled`.

    Raises:
      UserError: a mask is missing, no image is left, or one is a validation image.
    """
    check_disjoint(unlabeled.ids, "data.unlabeled", val.ids, "data.val")
    others = not_labeled(unlabeled, labeled)
    bad_examples = os.path.join(root, BAD_EXAMPLES)
    readable = without(others, listed(bad_examples, others.ids))
    if not len(readable):
        raise UserError(f"{bad_examples}: none of the {len(others)} unlabeled images can be read; mend them")
    return JoinedSource(labeled, times, PseudoLabeledSource(readable, root))

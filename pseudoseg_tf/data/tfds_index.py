"""Which record of a prepared TFDS split has which id: read once, then kept beside the split's files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from pseudoseg_tf.data.decode import check_sizes
from pseudoseg_tf.data.splits import check_unique
from pseudoseg_tf.data.text import canonical_id
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text
from pseudoseg_tf.progress import Progress

# The file of a split's ids is named after the split.
IDS_SUFFIX = ".ids.txt"

# How a line of the file begins; the id follows.
_WITH_MASK, _WITHOUT_MASK = "mask ", "none "


@dataclasses.dataclass(frozen=True)
class SplitIndex:
    """The records of a split or of parts of splits, in order.

    Attributes:
      ids: the "id" feature of each record, as a canonical id.
      has_mask: whether each record has a mask.
    """

    ids: tuple[str, ...]
    has_mask: tuple[bool, ...]


class SplitIndexes:
    """The indexes of a builder's splits.

    Reading a record to learn its id costs as much as reading it to learn from it. So a whole split is read the
    first time that any part of it is asked for, and never again where its folder can be written.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder) -> None:
        """Takes a prepared builder."""
        self._builder = builder
        self._known: dict[str, SplitIndex] = {}

    def find(self, split: str, where: str, check: bool = True) -> SplitIndex:
        """Returns the index of what TFDS reads for `split`, such as "train[:20]+val".

        Args:
          split: a split that the builder has.
          where: key and value that name it, for error messages.
          check: whether to compare the sizes of images and masks if the split is read for the first time.

        Raises:
          UserError: ids repeat, or an image and its mask differ in size.
        """
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(self._builder.info.splits)
        ids: tuple[str, ...] = ()
        has_mask: tuple[bool, ...] = ()
        for part in parts:
            whole = self._whole(part.splitname, where, check)
            ids += whole.ids[part.from_ : part.to]
            has_mask += whole.has_mask[part.from_ : part.to]
        check_unique(ids, where)
        return SplitIndex(ids, has_mask)

    def _whole(self, split: str, where: str, check: bool) -> SplitIndex:
        if split not in self._known:
            count = self._builder.info.splits[split].num_examples
            path = Path(self._builder.data_dir) / f"{split}{IDS_SUFFIX}"
            index = _load(path, count)
            if index is None:
                index = _read(self._builder, split, where, check)
                # What is kept has been checked.
                if check:
                    _save(path, index)
            self._known[split] = index
        return self._known[split]


class EncodedRecords:
    """Random access to the records of a split, as TFDS's features with images as files' bytes."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str, where: str) -> None:
        """Opens the files.

        Args:
          builder: prepared builder.
          split: a split that it has, or a part of one.
          where: key and value that name it, for error messages.

        Raises:
          UserError: the files are damaged.
        """
        self._where = f"{where}: the files of {split} in {builder.data_dir}"
        decoders = {name: tfds.decode.SkipDecoding() for name in ("image", "label")}
        with self._whole():
            self._records = builder.as_data_source(split, decoders=decoders)
            self._count = len(self._records)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Returns the features of a record; raises UserError if the files are damaged."""
        with self._whole():
            features = self._records[index]
            if features["id"] is None or features["image"] is None:
                raise RuntimeError(f"record {index} is not whole")
            return features

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except NotImplementedError:  # A format without random access.
            raise
        except (RuntimeError, IndexError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self._where} are damaged ({reason}); delete that folder, it will be prepared again"
            ) from error


def id_of(features: Mapping[str, Any]) -> str:
    """Returns the canonical id of a record."""
    return canonical_id(features["id"].decode("utf-8", "replace"))


def _read(builder: tfds.core.DatasetBuilder, split: str, where: str, check: bool) -> SplitIndex:
    records = EncodedRecords(builder, split, where)
    ids: list[str] = []
    has_mask: list[bool] = []
    with Progress(len(records), f"{where}: reading the ids of {split}") as progress:
        for position in range(len(records)):
            features = records[position]
            record_id, mask = id_of(features), features["label"]
            if mask and check:
                image_name, mask_name = f"{where} image {record_id}", f"{where} mask {record_id}"
                check_sizes(io.BytesIO(features["image"]), image_name, io.BytesIO(mask), mask_name)
            ids.append(record_id)
            has_mask.append(bool(mask))
            progress.update()
    return SplitIndex(tuple(ids), tuple(has_mask))


def _load(path: Path, count: int) -> SplitIndex | None:
    """The index in a file; None without one, or if it is not that of a split of `count` records."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    width = len(_WITH_MASK)
    if len(lines) != count or not {line[:width] for line in lines} <= {_WITH_MASK, _WITHOUT_MASK}:
        return None
    return SplitIndex(
        tuple(line[width:] for line in lines), tuple(line.startswith(_WITH_MASK) for line in lines)
    )


def _save(path: Path, index: SplitIndex) -> None:
    lines = (
        f"{_WITH_MASK if masked else _WITHOUT_MASK}{record_id}\n"
        for record_id, masked in zip(index.ids, index.has_mask, strict=True)
    )
    # Others may have prepared the files, for all to read and none to write: then each run reads the ids.
    with contextlib.suppress(UserError):
        write_text(path, "".join(lines))

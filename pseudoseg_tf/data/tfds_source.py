"""Records from a TensorFlow Datasets builder, as encoded bytes."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from typing import TypeVar

import tensorflow_datasets as tfds

from pseudoseg_tf.data.specs import DatasetInfo, Record, voc_palette
from pseudoseg_tf.data.tfds_index import IDS_SUFFIX, EncodedRecords, SplitIndexes, id_of
from pseudoseg_tf.errors import UserError

_T = TypeVar("_T")


def open_builder(
    name: str, data_dir: str, manual_dir: str = "", key: str = "data.name"
) -> tuple[tfds.core.DatasetBuilder, DatasetInfo]:
    """Finds a builder and prepares its files, as ArrayRecord, if they are not there.

    The builder needs the features "image" (Image), "label" (Image of one uint8 channel, 255 ignored) and "id"
    (Text); its metadata needs "class_names" and may hold "palette" and
    "background" (0: class 0 is the background, as where it does not say; None: no class is).

    Args:
      name: TFDS name, such as "shapes_seg" or "shapes_seg/96px"; builders of this package need no import.
      data_dir: where its files are; "" is the TFDS default.
      manual_dir: where the unpacked archives are that it is prepared from, if it needs any; "" is the TFDS
        default, downloads/manual below `data_dir`.
      key: the configuration key that names it, for error messages.

    Raises:
      UserError: an unknown name, files in a format without random access, features or metadata missing, or
        archives missing or damaged.
    """
    where = f"{key}={name}"
    module = re.split(r"\W", name)[0]
    if module and _exists(f"pseudoseg_tf.datasets.{module}"):
        importlib.import_module(f"pseudoseg_tf.datasets.{module}")
    _check_config_name(name, where)
    options = {"data_dir": data_dir or None, "file_format": "array_record"}
    hint = "; give the name of a builder whose files in data.data_dir are ArrayRecord or not made yet"
    builder = _ask(functools.partial(tfds.builder, name, **options), where, hint)
    missing = {"image", "label", "id"} - set(builder.info.features or ())
    class_names = (builder.info.metadata or {}).get("class_names")
    if missing or not class_names:
        lacks = f"the features {', '.join(sorted(missing))}" if missing else "class_names in its metadata"
        raise UserError(f"{where} lacks {lacks}; give a segmentation builder such as shapes_seg")
    # Prepared here and nowhere else; and builders of this package report their progress themselves.
    settings = tfds.download.DownloadConfig(manual_dir=manual_dir or None, try_download_gcs=False)
    tfds.disable_progress_bar()
    _ask(functools.partial(builder.download_and_prepare, download_config=settings), where)
    metadata = builder.info.metadata
    palette = metadata.get("palette") or voc_palette(len(class_names))
    info = DatasetInfo.from_json(
        {**metadata, "name": builder.name, "class_names": class_names, "palette": palette}
    )
    return builder, info


def _check_config_name(name: str, where: str) -> None:
    """Raises UserError if a builder is known and has no such configuration: TFDS's own message is long."""
    base, _, config = name.partition("/")
    try:
        known = list(tfds.builder_cls(base).builder_configs)
    except (ValueError, KeyError, tfds.core.registered.DatasetNotFoundError):
        return
    if config and config.partition(":")[0] not in known:
        raise UserError(f"{where}: no configuration {config!r} of {base}; there are: {', '.join(known)}")


class TFDSSource:
    """The records of a split or part of one, in the order of the builder's files.

    Attributes:
      info: the classes.
      ids: the "id" feature of each record, as a canonical id.
      has_masks: whether every record carries a mask.
    """

    def __init__(
        self,
        info: DatasetInfo,
        builder: tfds.core.DatasetBuilder,
        indexes: SplitIndexes,
        split: str,
        where: str,
        hint: str = "",
        *,
        check: bool = True,
    ) -> None:
        """Opens the split.

        Args:
          info: the classes.
          builder: prepared builder.
          indexes: those of the builder.
          split: TFDS split, such as "train", "train[:20]" or "train[20:]".
          where: key and value that name it, for error messages.
          hint: ends the message if there is no such split.
          check: whether to compare sizes now, if the split is read for the first time; else mistakes show when
            records are read.

        Raises:
          UserError: no such split or an empty one, ids repeat, a mask is needed and there is none, or image and
            mask differ in size.
        """
        self.info = info
        if not _ask(lambda: builder.info.splits[split].num_examples, where, hint):
            raise UserError(f"{where} holds no records; give a split or part of one with at least one")
        self._records = _ask(lambda: EncodedRecords(builder, split, where), where)
        index = indexes.find(split, where, check)
        self.ids = index.ids
        self._has_mask = index.has_mask
        self.has_masks = all(self._has_mask)
        self._key = where
        self._where = f"{where}: {builder.data_dir}"

    def __len__(self) -> int:
        return len(self._records)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        return self._has_mask[index]

    def read(self, index: int) -> Record:
        """Returns record `index`.

        Raises:
          UserError: it is not the one that the file of ids has there.
        """
        features = self._records[index]
        record_id = id_of(features)
        if record_id != self.ids[index]:
            raise UserError(
                f"{self._where} holds {record_id!r} where its files *{IDS_SUFFIX} name {self.ids[index]!r}; "
                "delete them, they will be made anew"
            )
        name = f"{record_id} ({self._key})"
        return Record(
            record_id,
            features["image"],
            features["label"] or None,
            image_labels=None,
            image_name=name,
            mask_name=name,
        )


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # The package of data sets is not installed.
        return False


def _ask(call: Callable[[], _T], where: str, hint: str = "") -> _T:
    """Calls TFDS, whose complaints about names, splits and formats run over many lines; keeps the first."""
    try:
        return call()
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        text = error.args[0] if error.args and not isinstance(error, OSError) else error
        reason = str(text).strip().split("\n")[0]
        raise UserError(f"{where}: {reason or type(error).__name__}{hint}") from error

"""Records from TFRecord shards with the feature keys of DeepLab's converters.

A shard is read once from start to end to learn where its records lie; then any record is one seek away.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from pseudoseg_tf.data.decode import check_sizes
from pseudoseg_tf.data.specs import CLASS_IDS, DatasetInfo, MaskEncoding, Record
from pseudoseg_tf.data.splits import check_unique
from pseudoseg_tf.data.text import canonical_id
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.progress import Progress

# The keys read; image size and format stand in the encoded image itself.
_ID = "image/filename"
_IMAGE = "image/encoded"
_MASK = "image/segmentation/class/encoded"

# Around the content of a record: its length (uint64) and masked CRC (uint32); a masked CRC of the content.
_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a record's content lies."""

    path: str
    offset: int
    length: int


class TFRecordSource:
    """The records of all shards that fit the patterns, shards in alphabetical order.

    Attributes:
      info: the classes.
      ids: `image/filename` of each record, as a canonical id.
      has_masks: whether every record carries a mask.
    """

    def __init__(
        self,
        info: DatasetInfo,
        patterns: str,
        key: str,
        *,
        need_masks: bool,
        check: bool = True,
        encoding: MaskEncoding = CLASS_IDS,
        image_labels: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Scans the shards.

        Args:
          info: the classes.
          patterns: file patterns such as "voc/train-*", several separated by commas.
          key: the configuration key that names them, for error messages.
          need_masks: whether a record without a mask is an error.
          check: whether to look for such records and compare sizes now; else mistakes show when they are read.
          encoding: what the pixels of the masks mean.
          image_labels: multi-hot image-level labels by canonical id; ids without an entry have none.

        Raises:
          UserError: no file fits; a shard is damaged or no TFRecord file; a record lacks its image, its name
            or a mask that is needed; names repeat; or image and mask differ in size.
        """
        self.info = info
        self._encoding = encoding
        self._image_labels = image_labels or {}
        self._places: list[_Place] = []
        ids: list[str] = []
        self.has_masks = True
        paths = _expand(patterns, key)
        with Progress(len(paths), f"{key}: scanning shards") as progress:
            for path in paths:
                for place, content in _scan(path):
                    record = self._parse(content, place)
                    if record.mask is None:
                        if check and need_masks:
                            raise UserError(
                                f"{key}: {path} record {record.id!r} has no {_MASK}; it needs a mask"
                            )
                        self.has_masks = False
                    elif check:
                        image_name, mask_name = f"{path} image {record.id}", f"{path} mask {record.id}"
                        check_sizes(io.BytesIO(record.image), image_name, io.BytesIO(record.mask), mask_name)
                    self._places.append(place)
                    ids.append(record.id)
                progress.update()
        if not ids:
            raise UserError(f"{key}: {patterns} holds no records; give shards with at least one")
        check_unique(ids, f"{key}: {patterns}")
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Record:
        """Returns record `index`.

        Raises:
          UserError: the shard cannot be read any more, or changed.
        """
        place = self._places[index]
        try:
            with tf.io.gfile.GFile(place.path, "rb") as file:
                file.seek(place.offset)
                content = file.read(place.length)
        except tf.errors.OpError as error:
            raise _unreadable(place.path, error) from error
        return self._parse(content, place)

    def _parse(self, content: bytes, place: _Place) -> Record:
        where = f"{place.path} record at byte {place.offset}"
        try:
            features = tf.train.Example.FromString(content).features.feature
        except Exception as error:  # The type of protobuf's DecodeError depends on its implementation.
            raise UserError(f"{where} is not a tf.train.Example; write the shard again") from error
        values: dict[str, bytes] = {}
        for name in (_ID, _IMAGE, _MASK):
            if name in features and features[name].bytes_list.value:
                values[name] = features[name].bytes_list.value[0]
            elif name != _MASK:
                raise UserError(f"{where} has no {name}; it needs {_ID} and {_IMAGE} as bytes")
        record_id = canonical_id(values[_ID].decode("utf-8", "replace"))
        image_labels = self._image_labels.get(record_id)
        return Record(record_id, values[_IMAGE], values.get(_MASK), image_labels, self._encoding)


def _expand(patterns: str, key: str) -> list[str]:
    paths: list[str] = []
    for pattern in patterns.split(","):
        try:
            found = sorted(tf.io.gfile.glob(pattern.strip()))
        except tf.errors.OpError as error:
            raise _unreadable(f"{key}: {pattern.strip()}", error) from error
        if not found:
            raise UserError(f"{key}: no file fits {pattern.strip()!r}; give a pattern such as voc/train-*")
        paths += found
    check_unique(paths, f"{key}: {patterns}")
    return paths


def _scan(path: str) -> Iterator[tuple[_Place, bytes]]:
    """Yields place and content of each record of a shard; the checksum of each length is verified."""
    offset = 0
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            size = file.size()
            while header := file.read(_HEADER.size):
                if len(header) < _HEADER.size:
                    raise _damaged(path, offset)
                length, checksum = _HEADER.unpack(header)
                end = offset + _HEADER.size + length + _FOOTER_BYTES
                if checksum != _masked_crc(header[:8]) or end > size:
                    raise _damaged(path, offset)
                content = file.read(length + _FOOTER_BYTES)
                yield _Place(path, offset + _HEADER.size, length), content[:length]
                offset = end
    except tf.errors.OpError as error:
        raise _unreadable(path, error) from error


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC_TABLE = _crc_table()


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as the TFRecord format has it. For the few bytes of a length."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, offset: int) -> UserError:
    return UserError(
        f"{path}: not a TFRecord file, compressed, or cut off (at byte {offset}); "
        "give uncompressed TFRecord shards and write this one again"
    )


def _unreadable(what: str, error: tf.errors.OpError) -> UserError:
    return UserError(f"{what}: cannot be read ({' '.join(str(error.message).split())})")

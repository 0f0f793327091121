"""Records from TFRecord shards with the feature keys of DeepLab's converters.

A shard is read once from start to end to learn where its records lie; then any record is one seek away. Checksums
are verified both times.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Iterator

import google_crc32c
import tensorflow as tf

from pseudoseg_tf.data.decode import MAX_FILE_BYTES, check_sizes
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
_FOOTER = struct.Struct("<I")

# An image and its mask.
_MAX_RECORD_BYTES = 2 * MAX_FILE_BYTES


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a record's content, with the checksum behind it, lies; records of a shard are counted from 1."""

    path: str
    number: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path} record {self.number}"


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
    ) -> None:
        """Scans the shards.

        Args:
          info: the classes.
          patterns: file patterns such as "voc/train-*", several separated by commas.
          key: the configuration key that names them, for error messages.
          need_masks: whether a record without a mask is an error.
          check: whether to look for such records, damaged ones, and compare sizes now; else mistakes show when they
            are read, and a record whose name cannot be read has its place as id.
          encoding: what the pixels of the masks mean.

        Raises:
          UserError: no file fits; a shard is cut off or no TFRecord file; a record is damaged, lacks its image, its
            name or a mask that is needed; names repeat; or image and mask differ in size.
        """
        self.info = info
        self._encoding = encoding
        self._places: list[_Place] = []
        ids: list[str] = []
        self._has_mask: list[bool] = []
        paths = _expand(patterns, key)
        with Progress(len(paths), f"{key}: scanning shards") as progress:
            for path in paths:
                for place, content in _scan(path):
                    try:
                        record = self._parse(content, place)
                        if check:
                            _check_record(record, need_masks, key)
                    except UserError:
                        if check:
                            raise
                        record = Record(str(place), b"", b"", None)
                    self._has_mask.append(record.mask is not None)
                    self._places.append(place)
                    ids.append(record.id)
                progress.update()
        if not ids:
            raise UserError(f"{key}: {patterns} holds no records; give shards with at least one")
        check_unique(ids, f"{key}: {patterns}")
        self.ids = tuple(ids)
        self.has_masks = all(self._has_mask)

    def __len__(self) -> int:
        return len(self.ids)

    def has_mask(self, index: int) -> bool:
        """Returns whether record `index` carries a mask."""
        return self._has_mask[index]

    def read(self, index: int) -> Record:
        """Returns record `index`.

        Raises:
          UserError: the record is damaged, or the shard cannot be read any more.
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
        where = f"{place} (at byte {place.offset})"
        content, checksum = content[: -_FOOTER.size], content[-_FOOTER.size :]
        if checksum != _FOOTER.pack(_masked_crc(content)):
            raise UserError(f"{where} is damaged: its checksum is another; write the shard again")
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
        name = f"{record_id} ({place})"
        return Record(record_id, values[_IMAGE], values.get(_MASK), None, self._encoding, name, name)


def _check_record(record: Record, need_masks: bool, key: str) -> None:
    """Refuses a record without the mask that it needs, and sizes that differ."""
    if record.mask is not None:
        names = f"image {record.image_name}", f"mask {record.mask_name}"
        check_sizes(io.BytesIO(record.image), names[0], io.BytesIO(record.mask), names[1])
    elif need_masks:
        raise UserError(f"{key}: {record.image_name} has no {_MASK}; it needs a mask")


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
    """Yields place and content, with its checksum, of each record of a shard; that of each length is verified."""
    offset = number = 0
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            size = file.size()
            while header := file.read(_HEADER.size):
                number += 1
                if len(header) < _HEADER.size:
                    raise _damaged(path, number, offset)
                length, checksum = _HEADER.unpack(header)
                place = _Place(path, number, offset + _HEADER.size, length + _FOOTER.size)
                end = place.offset + place.length
                if checksum != _masked_crc(header[:8]) or end > size:
                    raise _damaged(path, number, offset)
                if length > _MAX_RECORD_BYTES:
                    raise UserError(
                        f"{place}: {length:,} bytes, at most {_MAX_RECORD_BYTES:,} are read; make it smaller"
                    )
                yield place, file.read(place.length)
                offset = end
    except tf.errors.OpError as error:
        raise _unreadable(path, error) from error


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as the TFRecord format has it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _damaged(path: str, number: int, offset: int) -> UserError:
    return UserError(
        f"{path}: not a TFRecord file, compressed, or cut off (record {number}, at byte {offset}); "
        "give uncompressed TFRecord shards and write this one again"
    )


def _unreadable(what: str, error: tf.errors.OpError) -> UserError:
    return UserError(f"{what}: cannot be read ({' '.join(str(error.message).split())})")

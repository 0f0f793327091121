"""The cache of decoded images: the same batches, nothing stale, no more room than there is."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pseudoseg_tf.data import decoded_cache, pipeline
from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.decoded_cache import Decode, DiskCache, MemoryCache, cache_notes, content_key
from pseudoseg_tf.data.specs import MaskEncoding, Record
from tests.data.test_pipeline import DATA, assert_same, make_sources, noise, png, take

ROOM = 1 << 20


def _record(index: int, name: str = "a") -> Record:
    image, labels, _ = noise(index)
    return Record(name, png(image), png(labels), None)


def _caches(tmp_path: Path) -> list[Decode]:
    return [MemoryCache(ROOM).decode, DiskCache(tmp_path / "decoded").decode]


def _assert_decoded(found: tuple[np.ndarray, np.ndarray], record: Record) -> None:
    for ours, expected in zip(found, decode_record(record, 3), strict=True):
        np.testing.assert_array_equal(ours, expected)
        assert ours.dtype == np.uint8 and ours.flags.c_contiguous


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_batches_are_the_same_and_later_epochs_decode_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Room on the disk that the tests run on is none of theirs.
    monkeypatch.setattr(decoded_cache, "_DISK_LEFT", 0.0)
    decoded_cache.decoder.cache_clear()
    sources = make_sources()
    data = dataclasses.replace(DATA, cache=kind)
    expected = take(pipeline.training_dataset(sources, DATA, "unlabeled", 0), 6)
    with mock.patch.object(decoded_cache, "decode_record", wraps=decode_record) as decode:
        found = take(pipeline.training_dataset(sources, data, "unlabeled", 0), 6)
        # 5 labeled and 7 unlabeled images; those read at the same time may both be decoded.
        after_two_epochs = decode.call_count
        assert after_two_epochs >= 12
        take(pipeline.training_dataset(sources, data, "unlabeled", 6), 6)
        assert decode.call_count == after_two_epochs
    decoded_cache.decoder.cache_clear()
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


def test_a_changed_file_is_decoded_anew(tmp_path: Path) -> None:
    for decode in _caches(tmp_path):
        for record in (_record(0), _record(1), _record(0)):
            _assert_decoded(decode(record, 3), record)
            _assert_decoded(decode(record, 3), record)


def test_keys_tell_apart_what_is_decoded_differently() -> None:
    record = _record(0)
    others = [
        dataclasses.replace(record, image=record.image + b" "),
        dataclasses.replace(record, mask=None),
        dataclasses.replace(record, mask=b""),
        dataclasses.replace(record, encoding=MaskEncoding(binary=True)),
        dataclasses.replace(record, encoding=MaskEncoding(colors={(1, 2, 3): 0})),
        # The same bytes, otherwise divided.
        dataclasses.replace(
            record, image=record.image + (record.mask or b"")[:1], mask=(record.mask or b"")[1:]
        ),
    ]
    keys = [content_key(record, 3), content_key(record, 4), *(content_key(other, 3) for other in others)]
    assert len(set(keys)) == len(keys)
    assert content_key(dataclasses.replace(record, id="b"), 3) == keys[0]


def test_memory_takes_no_more_than_its_room() -> None:
    first, second = _record(0), _record(1)
    size = sum(array.nbytes for array in decode_record(first, 3))
    cache = MemoryCache(size)
    for record in (first, second, first, second):
        _assert_decoded(cache.decode(record, 3), record)
    with mock.patch.object(decoded_cache, "decode_record", wraps=decode_record) as decode:
        cache.decode(first, 3)
        cache.decode(second, 3)
    assert decode.call_count == 1


@pytest.mark.parametrize(
    ("limit", "statistics", "expected"),
    [
        ("1000000", "anon 400000\nfile 500000\n", 600_000),
        ("1000000", "anon 1200000\n", 0),
        ("max", "anon 400000\n", 8_000_000),
        ("9000000", "anon 400000\n", 8_000_000),
        ("1000000", "file 500000\n", 8_000_000),
        ("1000000", None, 8_000_000),
    ],
)
def test_memory_of_a_container(
    limit: str, statistics: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded_cache, "_CONTAINER", tmp_path)
    monkeypatch.setattr(decoded_cache.psutil, "virtual_memory", lambda: mock.Mock(available=8_000_000))
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    if statistics is not None:
        (tmp_path / "memory.stat").write_text(statistics)
    assert decoded_cache._available_memory() == expected


def test_a_full_disk_and_a_damaged_file_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = _record(0)
    monkeypatch.setattr(decoded_cache, "_DISK_LEFT", 1.0)
    _assert_decoded(DiskCache(tmp_path).decode(record, 3), record)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(decoded_cache, "_DISK_LEFT", 0.0)
    _assert_decoded(DiskCache(tmp_path).decode(record, 3), record)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    zeros = whole[:100] + bytes(len(whole) - 100)
    for content in (b"", whole[:100], whole[:-1], zeros, bytes(len(whole))):
        path.write_bytes(content)
        _assert_decoded(DiskCache(tmp_path).decode(record, 3), record)
        assert path.read_bytes() == whole
    # A bit of each header, and here and there of the pixels.
    for place in (*range(200), *range(200, len(whole), 1 + len(whole) // 100)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        _assert_decoded(DiskCache(tmp_path).decode(record, 3), record)
    # Where nothing can be made, too.
    _assert_decoded(DiskCache(path / "below").decode(record, 3), record)


def test_who_asks_for_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    free, total = 24 * 10**9, 250 * 10**9
    with mock.patch.object(shutil, "disk_usage", lambda path: mock.Mock(free=free, total=total)):
        (line,) = cache_notes("disk")
        folder = tmp_path / "cache/pseudoseg_tf/decoded"
        assert line.startswith(
            f"data.cache=disk keeps nothing more in {folder}: of 250 GB there 24 are free,"
        )
        assert cache_notes("memory") == cache_notes("none") == []
        free *= 2
        assert cache_notes("disk") == []
    (tmp_path / "cache").write_text("")
    (line,) = cache_notes("disk")
    assert line.startswith("data.cache=disk keeps nothing: ") and "is a file; name a directory" in line
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]

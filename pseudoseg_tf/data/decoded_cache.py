"""Decoded images and masks kept for later epochs, in memory or on disk, as long as there is room.

What is kept goes by the bytes it was decoded from: a file that changes is decoded anew, and equal files are kept once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from pseudoseg_tf.data.decode import decode_record
from pseudoseg_tf.data.specs import Record
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import cache_directory, check_directory

Decoded = tuple[np.ndarray, np.ndarray]
Decode = Callable[[Record, int], Decoded]
CacheKind = Literal["none", "memory", "disk"]

# Counts up when decoding changes its results.
_VERSION = 2
# Parts of the free memory that may be taken, and of the disk that stay free.
_MEMORY_TAKEN, _DISK_LEFT = 0.5, 0.1
# Where Linux tells a container its limits (cgroup v2).
_CONTAINER = Path("/sys/fs/cgroup")


@functools.cache
def decoder(kind: CacheKind) -> Decode:
    """`decode.decode_record`, by way of the cache of `data.cache`, of which a process has one."""
    if kind == "memory":
        return MemoryCache(round(_MEMORY_TAKEN * _available_memory())).decode
    if kind == "disk":
        return DiskCache(_on_disk()).decode
    return decode_record


def cache_notes(kind: CacheKind) -> list[str]:
    """A line if the cache is to be on a disk that has no room for more, or no rights; makes nothing."""
    if kind != "disk":
        return []
    try:
        disk = shutil.disk_usage(check_directory(_on_disk()))
    except UserError as error:
        return [f"data.cache=disk keeps nothing: {error}"]
    if _has_room(disk.free, disk.total):
        return []
    return [
        f"data.cache=disk keeps nothing more in {_on_disk()}: of {disk.total / 1e9:.0f} GB there {disk.free / 1e9:.0f} "
        "are free, and a tenth stays free; make room, or name another folder in the variable XDG_CACHE_HOME"
    ]


class MemoryCache:
    """Keeps what it decodes until that takes `room` bytes; further records are decoded each time."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[bytes, Decoded] = {}
        self._lock = threading.Lock()

    def decode(self, record: Record, num_classes: int) -> Decoded:
        """As `decode_record`."""
        key = content_key(record, num_classes)
        if key not in self._kept:
            decoded = decode_record(record, num_classes)
            size = sum(array.nbytes for array in decoded)
            with self._lock:
                if size > self._room or key in self._kept:
                    return decoded
                self._room -= size
                self._kept[key] = decoded
        return self._kept[key]


class DiskCache:
    """Keeps a file for each record it decodes, until a tenth of the disk is free; also for later runs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def decode(self, record: Record, num_classes: int) -> Decoded:
        """As `decode_record`."""
        path = self._directory / f"{content_key(record, num_classes).hex()}.npz"
        # Not there, or damaged, for which numpy and zipfile raise many types.
        with (
            contextlib.suppress(Exception),
            open(path, "rb") as archive,
            np.load(archive, allow_pickle=False) as kept,
        ):
            # The checksum of each array.
            if kept.zip.testzip() is None:
                return kept["image"], kept["labels"]
        image, labels = decode_record(record, num_classes)
        # The cache spares time; without room or rights the run goes on all the same.
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            disk = shutil.disk_usage(self._directory)
            if _has_room(disk.free - image.nbytes - labels.nbytes, disk.total):
                temporary = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp")
                try:
                    with open(temporary, "wb") as file:
                        np.savez(file, image=image, labels=labels)
                    os.replace(temporary, path)
                except OSError:
                    temporary.unlink(missing_ok=True)
        return image, labels


def _available_memory() -> int:
    """Bytes that are free on the machine, or in the container that the process is in, if that has a limit."""
    available: int = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError, KeyError):  # No container, or none that says so.
        limit = int((_CONTAINER / "memory.max").read_text())
        statistics = dict(line.split() for line in (_CONTAINER / "memory.stat").read_text().splitlines())
        # Without the files that the kernel keeps, which make room.
        available = min(available, max(0, limit - int(statistics["anon"])))
    return available


def _on_disk() -> Path:
    return cache_directory() / "decoded"


def _has_room(free: int, total: int) -> bool:
    return free > _DISK_LEFT * total


def content_key(record: Record, num_classes: int) -> bytes:
    """Differs for records that are not decoded alike, whatever their ids."""
    encoding = record.encoding
    rules = (_VERSION, num_classes, encoding.binary, sorted(encoding.colors.items()), record.mask is None)
    digest = hashlib.blake2b(repr((*rules, len(record.image))).encode(), digest_size=16)
    digest.update(record.image)
    digest.update(record.mask or b"")
    return digest.digest()

"""Event files of TensorBoard, after a run was broken off."""

from __future__ import annotations

import glob
import os

import tensorflow as tf


def forget_after(directory: str, step: int) -> None:
    """Takes the events of steps after ``step`` out of the files under a directory, and what a kill left cut off.

    The run that continues at ``step`` writes them anew, as if nothing had happened.
    """
    for path in glob.glob(
        os.path.join(glob.escape(directory), "**", "events.out.tfevents.*"), recursive=True
    ):
        records, whole = _read(path)
        kept = [record for record in records if tf.compat.v1.Event.FromString(record).step <= step]
        if len(kept) < len(records) or not whole:
            # A name that is not taken for one of TensorBoard's.
            temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.tmp")
            with tf.io.TFRecordWriter(temporary) as writer:
                for record in kept:
                    writer.write(record)
            os.replace(temporary, path)


def _read(path: str) -> tuple[list[bytes], bool]:
    """The records of an event file up to its end or the first that is cut off; whether none is."""
    records: list[bytes] = []
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            records.append(record)
    except tf.errors.DataLossError:
        return records, False
    return records, True

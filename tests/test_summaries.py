"""Event files of a run that continues at an earlier step than it wrote."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from pseudoseg_tf.summaries import forget_after


def write(directory: Path, steps: range) -> Path:
    writer = tf.summary.create_file_writer(str(directory))
    with writer.as_default():
        for step in steps:
            tf.summary.scalar("loss", float(step), step=step)
    writer.close()
    return max(directory.glob("events*"), key=lambda path: path.stat().st_mtime_ns)


def steps_in(directory: Path) -> list[int]:
    events = [
        tf.compat.v1.Event.FromString(record)
        for path in directory.glob("events*")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    # Files of one second are not in the order of their names.
    return sorted(event.step for event in events if event.summary.value)


def test_later_steps_and_what_is_cut_off_are_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path / "train", range(5))
    path.write_bytes(path.read_bytes()[:-3])
    validation = write(tmp_path / "val[1]", range(3))
    before = validation.stat()
    forget_after(str(tmp_path), 2)
    assert steps_in(tmp_path / "train") == steps_in(tmp_path / "val[1]") == [0, 1, 2]
    # Nothing to forget: not touched.
    assert validation.stat() == before
    write(tmp_path / "train", range(3, 5))
    assert steps_in(tmp_path / "train") == [0, 1, 2, 3, 4]
    assert {path.name[:6] for path in (tmp_path / "train").iterdir()} == {"events"}


def test_a_run_without_summaries(tmp_path: Path) -> None:
    forget_after(str(tmp_path / "absent"), 0)
    assert not (tmp_path / "absent").exists()

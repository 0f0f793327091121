"""Checkpoints that are cut off, changed, unfinished, too many, or do not fit on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pseudoseg_tf.checkpoint import find_checkpoint
from pseudoseg_tf.checkpoint_files import Checkpoints, check_checkpoint, newest_good
from pseudoseg_tf.errors import UserError
from tests.tf1 import with_huge_index_block

VALUES = {"a": np.arange(5.0), "b": np.ones([3, 3], np.float32), "c": np.int64(3)}


def saved() -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in VALUES.items()})


def values(prefix: str) -> dict[str, bytes]:
    reader = tf.train.load_checkpoint(prefix)
    return {
        name: np.asarray(reader.get_tensor(name)).tobytes() for name in reader.get_variable_to_shape_map()
    }


def quiet(line: str) -> None:
    raise AssertionError(line)


def steps_there(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.index"))


def test_any_change_of_a_checkpoint_is_noticed_or_changes_no_value(tmp_path: Path) -> None:
    prefix = saved().save(str(tmp_path / "good"))
    expected = values(prefix)
    files = {ending: Path(prefix + ending).read_bytes() for ending in (".index", ".data-00000-of-00001")}
    bad = str(tmp_path / "bad")
    refused = 0
    for ending, content in files.items():
        for position in range(0, len(content), 3):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            for changed in (bytes(flipped), content[:position]):
                for name, whole in files.items():
                    Path(bad + name).write_bytes(changed if name == ending else whole)
                try:
                    check_checkpoint(bad)
                except UserError as error:
                    assert str(error).startswith(f"{bad}: a damaged checkpoint (")
                    assert "\n" not in str(error)
                    refused += 1
                else:
                    assert values(bad) == expected
    Path(f"{bad}.index").write_bytes(with_huge_index_block(files[".index"]))
    with pytest.raises(UserError, match=f"^{bad}: a damaged checkpoint "):
        check_checkpoint(bad)
    # What is not noticed are bytes of the index that mean nothing.
    assert refused > 0.8 * sum(2 * len(content) / 3 for content in files.values())


def test_the_newest_good_one_is_used_and_a_bad_one_named(tmp_path: Path) -> None:
    run_dir, directory = tmp_path, tmp_path / "checkpoints/last"
    assert newest_good(str(directory), quiet) is None
    checkpoints = Checkpoints(saved(), str(directory), 3, quiet)
    for step in (2, 10, 4):
        checkpoints.save(step)
    assert Checkpoints(saved(), str(directory), 3, quiet).step == 10
    data = directory / "ckpt-10.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    lines: list[str] = []
    again = Checkpoints(saved(), str(directory), 3, lines.append)
    assert again.newest == str(directory / "ckpt-4")
    assert len(lines) == 1
    assert lines[0].startswith(f"{directory}/ckpt-10: a damaged checkpoint (") and lines[0].endswith(
        "; passed over"
    )
    assert find_checkpoint(str(run_dir), "last") == str(directory / "ckpt-4")
    # Written again, as the continued run does.
    again.save(10)
    assert newest_good(str(directory), quiet) == str(directory / "ckpt-10")
    for path in directory.glob("*.data-*"):
        path.write_bytes(b"")
    assert newest_good(str(directory), lines.append) is None
    with pytest.raises(UserError, match="checkpoints/last: no good checkpoint; train first"):
        find_checkpoint(str(run_dir), "last")


def test_restores_what_was_saved(tmp_path: Path) -> None:
    Checkpoints(saved(), str(tmp_path), 1, quiet).save(7)
    another = tf.train.Checkpoint(
        **{name: tf.Variable(np.zeros_like(value)) for name, value in VALUES.items()}
    )
    Checkpoints(another, str(tmp_path), 1, quiet).restore()
    for name, value in VALUES.items():
        np.testing.assert_array_equal(getattr(another, name), value)


def test_as_many_stay_as_asked_for_also_over_restarts_and_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for step in range(1, 4):
        Checkpoints(saved(), "first/last", 2, quiet).save(step)
    assert steps_there(tmp_path / "first/last") == ["ckpt-2.index", "ckpt-3.index"]
    os.rename("first", "second")
    # What CheckpointManager knows of earlier ones is lost.
    (tmp_path / "second/last/checkpoint").write_text("damaged {")
    checkpoints = Checkpoints(saved(), str(tmp_path / "second/last"), 2, quiet)
    checkpoints.save(4)
    assert steps_there(tmp_path / "second/last") == ["ckpt-3.index", "ckpt-4.index"]
    checkpoints.save(4)
    assert checkpoints.step == 4


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    Checkpoints(saved(), str(tmp_path), 2, quiet).save(1)
    whole = sorted(os.listdir(tmp_path))
    (tmp_path / "ckpt-2_temp").mkdir()
    (tmp_path / "ckpt-2_temp/part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    # TensorFlow renames the values first, the index last.
    (tmp_path / "ckpt-2.data-00000-of-00001").write_bytes(b"values")
    assert Checkpoints(saved(), str(tmp_path), 2, quiet).step == 1
    assert sorted(os.listdir(tmp_path)) == whole


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(tmp_path: Path) -> None:
    directory = tmp_path / "last"
    checkpoints = Checkpoints(saved(), str(directory), 2, quiet)
    checkpoints.save(1)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    # A file in the way of TensorFlow's temporary folder: root may write anywhere, so permissions are no test.
    (directory / "ckpt-2_temp").write_text("")
    with pytest.raises(UserError) as error:
        checkpoints.save(2)
    assert str(error.value).startswith(f"{directory}: the checkpoint of step 2 cannot be written (")
    assert str(error.value).endswith("and the same command continues the run") and "\n" not in str(
        error.value
    )
    (directory / "ckpt-2_temp").unlink()
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert checkpoints.step == 1

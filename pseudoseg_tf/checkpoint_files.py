"""Checkpoints of a run on disk: written whole or not at all, looked through before they are used."""

from __future__ import annotations

import glob
import os
import re
import shutil

import tensorflow as tf

from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import write_text
from pseudoseg_tf.records import Log

_NAME = re.compile(r"ckpt-(\d+)\.index")
# TensorFlow's reader raises Python's own exceptions, too: IndexError where a file is cut off, MemoryError where one
# claims to hold more than any memory does.
READ_ERRORS = (tf.errors.OpError, RuntimeError, ValueError, LookupError, MemoryError)


class Checkpoints:
    """The "last" or the "best" checkpoints of a run, ``ckpt-STEP``, by way of TensorFlow's CheckpointManager.

    A checkpoint is written under other names and then renamed, its index last. One without an index, or with one that
    does not agree with the values, is none: the newest good one counts.

    Attributes:
        newest: path prefix of the newest good checkpoint, or None.
    """

    def __init__(
        self, saved: tf.train.Checkpoint, directory: str, keep: int, log: Log, own_directory: str = ""
    ):
        """Looks through the checkpoints that are there.

        Args:
            saved: what is saved and restored.
            directory: where they are.
            keep: how many stay.
            log: takes a line about each that is damaged.
            own_directory: where to write, if not there: workers of a run other than its chief must take part in saving
                and may not write the same files.

        """
        self.newest = newest_good(directory, log)
        self._saved = saved
        if not own_directory:
            _forget_unfinished(directory)
            _register(directory, self.newest)
        self._manager = tf.train.CheckpointManager(saved, own_directory or directory, keep)

    @property
    def step(self) -> int | None:
        """The step of the newest good checkpoint, or None."""
        return None if self.newest is None else step_of(self.newest)

    def restore(self) -> None:
        """Gives all that is saved the values of the newest good checkpoint, of which there must be one."""
        self._saved.restore(self.newest).expect_partial()

    def save(self, step: int) -> None:
        """Writes a checkpoint, unless the newest is of this step, and removes those that are too many.

        Raises:
            UserError: the disk is full or cannot be written; the earlier checkpoints are as they were.
        """
        if self.step == step:
            return
        directory = self._manager.directory
        try:
            self.newest = self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            _forget_unfinished(directory)
            raise UserError(
                f"{directory}: the checkpoint of step {step} cannot be written ({_reason(error)}); the earlier ones "
                "are as they were: make room or mend the directory, and the same command continues the run"
            ) from error


def newest_good(directory: str, log: Log) -> str | None:
    """Path prefix of the newest good checkpoint of a directory; None: there is none.

    Args:
        log: takes a line about each newer one that is passed over.
    """
    for prefix in reversed(checkpoint_prefixes(directory)):
        try:
            check_checkpoint(prefix)
        except UserError as error:
            log(f"{error}; passed over")
            continue
        return prefix
    return None


def checkpoint_prefixes(directory: str) -> list[str]:
    """Path prefixes of the checkpoints of a directory, good or not, by step."""
    names = os.listdir(directory) if os.path.isdir(directory) else []
    steps = sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)
    return [os.path.join(directory, f"ckpt-{step}") for step in steps]


def step_of(prefix: str) -> int:
    """The step in the name of a checkpoint of a run."""
    return int(prefix.rpartition("-")[2])


def check_checkpoint(prefix: str) -> None:
    """Reads all values of a checkpoint; TensorFlow keeps a CRC-32C with each and with the parts of the index.

    Raises:
        UserError: a file is missing, cut off or changed.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except READ_ERRORS as error:
        raise UserError(f"{prefix}: a damaged checkpoint ({_reason(error)})") from error


def _register(directory: str, newest: str | None) -> None:
    """Tells CheckpointManager, which reads the file ``checkpoint``, of the good checkpoint and the older ones."""
    if newest is None:
        return
    names = [os.path.basename(prefix) for prefix in checkpoint_prefixes(directory)]
    names = names[: names.index(os.path.basename(newest)) + 1]
    times = [os.path.getmtime(os.path.join(directory, f"{name}.index")) for name in names]
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    lines += [f"all_model_checkpoint_timestamps: {time}" for time in times]
    # Before all of them: it would keep older ones forever.
    lines.append("last_preserved_timestamp: 0.0")
    write_text(os.path.join(directory, "checkpoint"), "".join(f"{line}\n" for line in lines))


def _forget_unfinished(directory: str) -> None:
    """Removes what a checkpoint that was not written to its end has left."""
    pattern = os.path.join(glob.escape(directory), "ckpt-*")
    for path in glob.glob(f"{pattern}_temp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in glob.glob(f"{pattern}.data-*"):
        if not os.path.exists(f"{path.rpartition('.data-')[0]}.index"):
            os.unlink(path)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # "{{function_node ...}} FILE; No space left on device [Op:SaveV2]"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(" [Op:")[0].rpartition("; ")[2]

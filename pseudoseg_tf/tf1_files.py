"""Files of TensorFlow 1 checkpoints: finding them, reading arrays by variable name, writing.

What the names mean is ``tf1_checkpoint``'s to know.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from pseudoseg_tf.checkpoint_files import READ_ERRORS
from pseudoseg_tf.errors import UserError

Shape = tuple[int, ...]

# A TensorFlow 2 checkpoint of objects has this entry.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_ENDINGS = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")


class Tf1Checkpoint:
    """An open checkpoint.

    Attributes:
        path: its prefix, or its one file.
        shapes: of every variable, by name.
    """

    def __init__(self, path: str):
        """Opens a checkpoint; values stay on disk.

        Args:
            path: the prefix of ``PREFIX.index`` and ``PREFIX.data-*``, one of these files, a directory, or
                the single file of the older format.

        Raises:
            UserError: there is none, it is damaged, or it is not one by variable names.
        """
        self.path = find_tf1_checkpoint(path)
        if glob.escape(self.path) != self.path:
            raise UserError(
                f"{self.path}: TensorFlow takes * ? [ for a pattern; rename the file or directory"
            )
        try:
            self._reader = tf.compat.v1.train.NewCheckpointReader(self.path)
            shapes = self._reader.get_variable_to_shape_map()
        except READ_ERRORS as error:
            raise UserError(
                f"{self.path}: not a TensorFlow 1 checkpoint, or a damaged one ({_first_line(error)})"
            ) from error
        if _OBJECT_GRAPH in shapes:
            raise UserError(
                f"{self.path}: a TensorFlow 2 checkpoint of objects, as pseudoseg-train writes them; a "
                "TensorFlow 1 checkpoint holds variables by name (pseudoseg-convert --to writes one of a run)"
            )
        self.shapes: dict[str, Shape] = {name: tuple(shapes[name]) for name in sorted(shapes)}

    def read(self, name: str) -> np.ndarray:
        """The value of a variable.

        Raises:
            UserError: the data file is damaged.
        """
        try:
            return np.asarray(self._reader.get_tensor(name))
        except READ_ERRORS as error:
            raise UserError(
                f"{self.path}: {name} cannot be read, the data file is cut off or damaged "
                f"({_first_line(error)})"
            ) from error


def find_tf1_checkpoint(path: str) -> str:
    """The prefix of the checkpoint that ``path`` means (see ``Tf1Checkpoint``); looks at file names alone.

    Raises:
        UserError: there is none, or a part of it is missing.
    """
    prefix = _ENDINGS.sub("", path)
    if os.path.isfile(f"{prefix}.index"):
        _check_data_files(prefix)
        return prefix
    if os.path.isdir(path):
        return find_tf1_checkpoint(_newest_in(path))
    if os.path.isfile(path):
        if path.endswith((".gz", ".tgz", ".tar", ".zip")):
            raise UserError(f"{path}: an archive; unpack it and name the checkpoint in it")
        if path == prefix:
            return path
    raise UserError(
        f"{path}: no TensorFlow 1 checkpoint; expected the PREFIX of files PREFIX.index and PREFIX.data-*, "
        f"or their directory, but there is no {prefix}.index"
    )


def _check_data_files(prefix: str) -> None:
    found = glob.glob(f"{glob.escape(prefix)}.data-*-of-*")
    counts = {int(match[1]) for name in found if (match := re.search(r"-of-(\d{5})$", name))}
    count = max(counts, default=1)
    wanted = [f"{prefix}.data-{number:05d}-of-{count:05d}" for number in range(count)]
    missing = [name for name in wanted if not os.path.isfile(name)]
    if missing:
        raise UserError(f"{missing[0]}: no such file; {prefix}.index is of no use without it")


def _newest_in(directory: str) -> str:
    """The checkpoint that the file ``checkpoint`` of a directory names, or the only one there."""
    if os.path.isfile(os.path.join(directory, "checkpoint")):
        try:
            state = tf.train.get_checkpoint_state(directory)
        except ValueError:
            state = None
        if state is None:
            raise UserError(
                f"{os.path.join(directory, 'checkpoint')}: damaged; name the checkpoint itself, without "
                "its .index"
            )
        named = state.model_checkpoint_path
        # The one in this directory first: that of a copied directory often names the place where it was written.
        for prefix in (os.path.join(directory, os.path.basename(named)), named):
            if os.path.isfile(f"{prefix}.index") or os.path.isfile(prefix):
                return prefix
        raise UserError(f"{os.path.join(directory, 'checkpoint')}: names {named}, which is not there")
    prefixes = sorted(
        _ENDINGS.sub("", path) for path in glob.glob(os.path.join(glob.escape(directory), "*.index"))
    )
    if len(prefixes) == 1:
        return prefixes[0]
    if prefixes:
        names = ", ".join(os.path.basename(prefix) for prefix in prefixes)
        raise UserError(f"{directory}: holds several checkpoints; name one of {names}")
    what = "a directory without a TensorFlow 1 checkpoint"
    if os.path.isfile(os.path.join(directory, "saved_model.pb")):
        what = "a SavedModel, not a TensorFlow 1 checkpoint"
    elif os.path.isfile(os.path.join(directory, "config.json")):
        what = "a run directory of pseudoseg-train, not a TensorFlow 1 checkpoint"
    raise UserError(f"{directory}: {what}; expected files PREFIX.index and PREFIX.data-*")


def write_tensors(prefix: str, tensors: Mapping[str, tf.Tensor]) -> None:
    """Writes ``PREFIX.index`` and ``PREFIX.data-00000-of-00001`` under temporary names, then renames them.

    Args:
        prefix: its directory is made if absent, and gets a file ``checkpoint``, by which programs find the
            newest one, if it has none.
        tensors: by variable name.

    Raises:
        UserError: as ``check_free``, or the files cannot be written.
    """
    check_free(prefix)
    directory = os.path.dirname(os.path.abspath(prefix))
    temporary = f"{prefix}.{os.getpid()}.tmp"
    names = sorted(tensors)
    data = ".data-00000-of-00001"
    try:
        os.makedirs(directory, exist_ok=True)
        tf.raw_ops.SaveV2(
            prefix=temporary,
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tensors[name] for name in names],
        )
        # The index last: it is what makes a checkpoint of the files.
        for ending in (data, ".index"):
            os.replace(f"{temporary}{ending}", f"{prefix}{ending}")
        state = os.path.join(directory, "checkpoint")
        if not os.path.exists(state):
            # By its name alone: the directory may be moved.
            newest = tf.compat.v1.train.generate_checkpoint_state_proto(directory, os.path.basename(prefix))
            with open(f"{temporary}.state", "w", encoding="utf-8") as file:
                file.write(str(newest))
            os.replace(f"{temporary}.state", state)
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"{prefix}: cannot be written ({_first_line(error)})") from error
    finally:
        for ending in (data, ".index", ".state"):
            with contextlib.suppress(OSError):
                os.unlink(f"{temporary}{ending}")


def check_free(prefix: str) -> None:
    """Refuses a prefix under which files exist.

    Raises:
        UserError: it is a directory or the name of one of the files, or there is such a checkpoint.
    """
    if _ENDINGS.search(prefix):
        raise UserError(f"{prefix}: names a file; give the prefix alone, such as {_ENDINGS.sub('', prefix)}")
    if os.path.isdir(prefix) or prefix.endswith("/"):
        raise UserError(
            f"{prefix}: a directory; name files in it, such as {os.path.join(prefix, 'model.ckpt')}"
        )
    taken = [prefix, f"{prefix}.index", *glob.glob(f"{glob.escape(prefix)}.data-*")]
    for path in taken:
        if os.path.exists(path):
            raise UserError(f"{path}: exists already; name another")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

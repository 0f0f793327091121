"""Weights in and out: first weights, checkpoints of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import h5py
import numpy as np
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.checkpoint_files import READ_ERRORS, checkpoint_prefixes, newest_good
from pseudoseg_tf.config_io import has_keras_names
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.mobilenet import MobileNetV1
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.optim import Adam, Momentum
from pseudoseg_tf.tf1_checkpoint import (
    VariableMapping,
    load_variables,
    map_variables,
    read_variables,
)
from pseudoseg_tf.tf1_files import Tf1Checkpoint

# Far above the arrays of any backbone: a file of a few kilobytes can claim to hold terabytes.
_MAX_ARRAY_BYTES = 1 << 30

_STEP_KEY = "step/.ATTRIBUTES/VARIABLE_VALUE"


def load_initial_weights(model: PseudoSegModel, weights: str, last_layers: bool = False) -> str:
    """Loads first weights: a TensorFlow 1 checkpoint, or arrays by Keras-Applications names.

    Args:
        weights: the path of a TensorFlow 1 checkpoint (see ``Tf1Checkpoint``) of any backbone and, if it has
            them, heads. Or, for the backbone MobileNetV1, names such as "conv_dw_1/depthwise_kernel":
            "imagenet" (tf_keras.applications downloads them), "closeups" (of this package, for the drawn
            images and the width 0.25), or a .npz or .h5 file.
        last_layers: of a checkpoint with as many classes, also load the decoder's logits and the classifier.

    Returns:
        One line: how many variables were loaded and skipped, and which keep their random values.

    Raises:
        UserError: unreadable file, no array with a known name, another shape, another backbone. No variable
            has changed.
    """
    if has_keras_names(weights):
        return _load_keras_arrays(model, weights)
    return _use_checkpoint(model, weights, last_layers, load_variables)


def check_initial_weights(model: PseudoSegModel, weights: str, last_layers: bool = False) -> str:
    """As ``load_initial_weights``, without changing the model or downloading: files can be read and fit.

    Returns:
        One line.

    Raises:
        UserError: a file is missing, or a checkpoint is damaged or does not fit.
    """
    if weights == "imagenet":
        return "first weights: downloaded, unless they are there"
    if has_keras_names(weights):
        return f"first weights from {weights}: {_fitting_arrays(model, _existing_file(weights)).summary}"
    return _use_checkpoint(model, weights, last_layers, read_variables)


def _use_checkpoint(
    model: PseudoSegModel,
    weights: str,
    last_layers: bool,
    use: Callable[[Tf1Checkpoint, VariableMapping], object],
) -> str:
    try:
        checkpoint = Tf1Checkpoint(weights)
        mapping = map_variables(checkpoint.shapes, model, last_layers=last_layers)
        use(checkpoint, mapping)
    except UserError as error:
        raise UserError(f"init.weights: {error}") from error
    return f"first weights from {checkpoint.path}: {mapping.summary()}"


class _FittingArrays(NamedTuple):
    values: Mapping[str, np.ndarray]
    variables: dict[str, tf.Variable]  # of the same names
    summary: str


def _load_keras_arrays(model: PseudoSegModel, weights: str) -> str:
    fitting = _fitting_arrays(model, weights)
    for name, variable in fitting.variables.items():
        variable.assign(fitting.values[name])
    return f"first weights from {weights}: {fitting.summary}"


def _fitting_arrays(model: PseudoSegModel, weights: str) -> _FittingArrays:
    if not isinstance(model.backbone, MobileNetV1):
        raise UserError(
            f"init.weights: found {weights!r} with the backbone {model.backbone.name}, but "
            "Keras-Applications has weights of mobilenet_v1 only; name a TensorFlow 1 checkpoint, or take "
            "model.backbone=mobilenet_v1"
        )
    arrays = _read_arrays(weights)
    variables = {_short_name(variable): variable for variable in model.backbone.variables}
    found = [name for name in variables if name in arrays]
    if not found:
        raise UserError(
            f"init.weights: {weights} has no array with a name of the backbone: expected names such as "
            f"{next(iter(variables))}, found {', '.join(sorted(arrays)[:3]) or 'nothing'}"
        )
    for name in found:
        if arrays[name].shape != tuple(variables[name].shape):
            raise UserError(
                f"init.weights: {weights}: {name} has shape {arrays[name].shape}, the model needs "
                f"{tuple(variables[name].shape)}; the file is for another width (model.width_multiplier)"
            )
    missing = [name for name in variables if name not in arrays]
    rest = f"; random because the file lacks them: {', '.join(missing)}" if missing else ""
    summary = f"{len(found)} of {len(variables)} backbone arrays{rest}"
    return _FittingArrays(arrays, {name: variables[name] for name in found}, summary)


def save_backbone(model: PseudoSegModel, path: str) -> None:
    """Writes the backbone's weights as a .npz that ``load_initial_weights`` reads.

    Args:
        path: ends in .npz; the file is replaced as a whole.
    """
    temporary = f"{path}.{os.getpid()}.tmp.npz"
    np.savez(temporary, **{_short_name(variable): variable.numpy() for variable in model.backbone.variables})
    os.replace(temporary, path)


def _short_name(variable: tf.Variable) -> str:
    """Layer and weight, as Keras-Applications names them: ".../conv1_bn/gamma:0" -> "conv1_bn/gamma"."""
    return "/".join(variable.name.split(":")[0].split("/")[-2:])


def _read_arrays(weights: str) -> Mapping[str, np.ndarray]:
    if weights == "imagenet":
        try:
            source = tf_keras.applications.MobileNet(weights="imagenet", include_top=False)
        except Exception as error:  # Keras raises a plain Exception when the download fails.
            raise UserError(
                f"init.weights: imagenet: the download failed ({error}); give a .npz or .h5 file instead"
            ) from error
        return {_short_name(variable): variable.numpy() for variable in source.variables}
    weights = _existing_file(weights)
    try:
        if weights.endswith(".npz"):
            # Opened here, since numpy leaves a damaged file open.
            with open(weights, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                _check_array_bytes(sum(info.file_size for info in file.zip.infolist()))
                return {name: file[name] for name in file.files}
        arrays: dict[str, np.ndarray] = {}
        with h5py.File(weights, "r") as file:

            def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
                if isinstance(item, h5py.Dataset):
                    _check_array_bytes(item.nbytes + sum(array.nbytes for array in arrays.values()))
                    layer, weight = name.split(":")[0].split("/")[-2:]
                    arrays[f"{layer}/{weight}"] = np.asarray(item)

            file.visititems(visit)
        return arrays
    except Exception as error:  # The readers raise many types for damaged content.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"init.weights: {weights}: not a readable weights file ({reason})") from error


def _check_array_bytes(size: int) -> None:
    if size > _MAX_ARRAY_BYTES:
        raise ValueError(f"more than {_MAX_ARRAY_BYTES >> 30} GiB of arrays")


def _existing_file(weights: str) -> str:
    if weights == "closeups":
        weights = os.path.join(os.path.dirname(__file__), "closeup_features.npz")
    if not os.path.isfile(weights):
        raise UserError(
            f"init.weights: {weights}: no such file; give imagenet, closeups, a .npz or .h5 file, or a "
            "TensorFlow 1 checkpoint"
        )
    return weights


def checkpoint_directory(run_dir: str, which: str) -> str:
    """Where a run keeps its "last" or "best" checkpoints."""
    return os.path.join(run_dir, "checkpoints", which)


def find_checkpoint(run_dir: str, which: str) -> str:
    """Path prefix of the newest good "last" or "best" checkpoint of a run, or ``which`` itself if it is a path.

    A newer one that is damaged is named on stderr.

    Raises:
        UserError: there is none.
    """
    if which in ("last", "best"):
        directory = checkpoint_directory(run_dir, which)
        path = newest_good(directory, lambda line: print(line, file=sys.stderr))
        if path is None:
            raise UserError(f"{directory}: no good checkpoint; train first, or give the path of a checkpoint")
        return path
    path = which.removesuffix(".index")
    if not os.path.isfile(f"{path}.index"):
        last = checkpoint_directory(run_dir, "last")
        example = [f"{last}/ckpt-1000", *checkpoint_prefixes(last)][-1]
        raise UserError(
            f"checkpoint: found {which!r}, allowed: last, best, or the path of a checkpoint such as {example}"
        )
    return path


def restore_model(
    run_dir: str, which: str, model: PseudoSegModel, optimizer: Momentum | Adam | None = None
) -> tuple[int, str]:
    """Restores the weights of a run's checkpoint into ``model``.

    Args:
        which: "last", "best" or a path.
        optimizer: built for ``model.trainable_variables``; its slots and step are restored, too.

    Returns:
        The step of the checkpoint and its path.

    Raises:
        UserError: no checkpoint, a damaged one, or one of another model.
    """
    path = find_checkpoint(run_dir, which)
    try:
        step = int(tf.train.load_checkpoint(path).get_tensor(_STEP_KEY))
        parts = {"model": model}
        if optimizer is not None:
            parts |= {"optimizer": optimizer, "step": optimizer.iterations}
        status = tf.train.Checkpoint(**parts).restore(path)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, *READ_ERRORS) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be restored into this model ({reason})") from error
    return step, path

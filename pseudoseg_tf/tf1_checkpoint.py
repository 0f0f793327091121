"""What is in TensorFlow 1 checkpoints: DeepLab's model zoo, and runs of the authors' code.

Such a checkpoint (``tf1_files``) holds arrays by variable name (``nn.tf1_names``). Nothing is loaded before
``map_variables`` has accounted for every name, on both sides.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pseudoseg_tf.config_io import nearest
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.nn.tf1_names import tf1_names
from pseudoseg_tf.optim import Adam, Momentum
from pseudoseg_tf.tf1_files import Shape, Tf1Checkpoint, write_tensors

# Parts of a network. A checkpoint holds a part as a whole or not at all.
BACKBONE = "backbone"
ASPP = "ASPP"
DECODER = "decoder"
LOGITS = "decoder logits"
CLASSIFIER = "image-level classifier"
ATTENTION = "self-attention"
SCORES = "self-attention's last layer"
OPTIMIZER = "optimizer"

# What the reference leaves out of a checkpoint of first weights, unless its initialize_last_layer is set.
_LAST_LAYERS = (LOGITS, CLASSIFIER)
# Parts whose shapes depend on the number of classes.
_CLASS_PARTS = (LOGITS, CLASSIFIER, SCORES)
_PART_OF_SCOPE = {
    "aspp": ASPP,
    "image_pooling": ASPP,
    "concat_projection": ASPP,
    "decoder": DECODER,
    "logits": LOGITS,
    "hyper_column": ATTENTION,
    "pixel_normalization": SCORES,
}
# Which keys decide the shapes of a part.
_CAUSES = {
    BACKBONE: "another model.backbone or model.width_multiplier",
    ASPP: "another model.aspp_channels, number of model.atrous_rates or model.backbone",
    DECODER: "another model.decoder_channels, model.aspp_channels or model.backbone",
    LOGITS: "another model.decoder_channels",
    CLASSIFIER: "another model.backbone or model.width_multiplier",
    ATTENTION: "another model.attention_dim, model.hypercolumn or model.backbone",
    SCORES: "another number of classes",
    OPTIMIZER: "as for the variable itself",
}
# Last components of the names of a layer's variables: one that has no counterpart means another network.
_KINDS = ("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean", "moving_variance")
# What optimizers append to the name of a variable, and the train.optimizer that reads it.
_SLOTS = {
    "Momentum": "momentum",
    "Adam": "adam",
    "Adam_1": "adam",
    **dict.fromkeys(("RMSProp", "RMSProp_1", "Adagrad", "Adadelta", "Adadelta_1", "Ftrl", "Ftrl_1"), ""),
}
_STEP = "global_step"
_BETA_POWERS = ("beta1_power", "beta2_power")
# Scopes in checkpoints of DeepLab and slim, and the backbone that each may be.
_BACKBONES = {
    "xception_65": ("xception_65", "xception_65"),
    "resnet_v1_50": ("resnet_v1_50", "resnet_v1_50_beta"),
    "resnet_v1_101": ("resnet_v1_101", "resnet_v1_101_beta"),
    "MobilenetV1": ("mobilenet_v1", "mobilenet_v1"),
}


def tf1_variables(model: PseudoSegModel, optimizer: Momentum | Adam | None = None) -> dict[str, tf.Variable]:
    """Our variables by TensorFlow 1 name.

    Args:
        optimizer: built for ``model.trainable_variables``; adds its slots and "global_step".
    """
    named = tf1_names(model)
    if optimizer is None:
        return named
    slots = (
        {"Momentum": optimizer.momentums}
        if isinstance(optimizer, Momentum)
        else {"Adam": optimizer.first_moments, "Adam_1": optimizer.second_moments}
    )
    name_of = {variable.ref(): name for name, variable in named.items()}
    for suffix, variables in slots.items():
        for of, slot in zip(model.trainable_variables, variables, strict=True):
            named[f"{name_of[of.ref()]}/{suffix}"] = slot
    named[_STEP] = optimizer.iterations
    return named


def tf1_shape(variable: tf.Variable) -> Shape:
    """Shape in a TensorFlow 1 checkpoint: a dense kernel [F, K] is a convolution [1, 1, F, K] there."""
    shape = tuple(variable.shape)
    return (1, 1, *shape) if len(shape) == 2 else shape


class VariableMapping(NamedTuple):
    """What becomes of each variable of a checkpoint, and of each of ours.

    Every variable of the checkpoint is in one of ``loaded``, ``skipped`` and ``leftover``, every one of ours
    in ``loaded`` or ``random``.
    """

    # Name -> our variable that takes the value.
    loaded: dict[str, tf.Variable]
    # Name -> why the value is deliberately not taken.
    skipped: dict[str, str]
    # TensorFlow 1 name of ours that keeps its first value (a slot: 0) -> the part it belongs to.
    random: dict[str, str]
    # Name that fits none of ours -> why.
    leftover: dict[str, str]
    # Why the checkpoint cannot be used, in parts of a sentence; empty: it can.
    errors: tuple[str, ...]

    def summary(self) -> str:
        """One line: how many are loaded, skipped and random, and which."""
        parts = [f"{_count(len(self.loaded), 'variable')} loaded"]
        if self.skipped:
            reasons = collections.Counter(self.skipped.values())
            shown = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
            parts.append(f"{len(self.skipped)} skipped ({shown})")
        network = [part for part in self.random.values() if part != OPTIMIZER]
        if network:
            shown = ", ".join(f"{part}: {count}" for part, count in collections.Counter(network).items())
            parts.append(f"{len(network)} of the model random ({shown})")
        zeros = len(self.random) - len(network)
        if zeros:
            parts.append(f"{zeros} of the optimizer start at 0")
        if self.leftover:
            parts.append(f"{len(self.leftover)} left over ({_some(self.leftover)})")
        return "; ".join(parts)


def map_variables(
    shapes: Mapping[str, Shape],
    model: PseudoSegModel,
    *,
    last_layers: bool = False,
    optimizer: Momentum | Adam | None = None,
) -> VariableMapping:
    """Decides what becomes of every variable of a checkpoint, by names and shapes.

    As first weights (no ``optimizer``), like the reference's: backbone and whichever heads there are, but
    neither step nor slots nor, unless asked for, last layers. As a trained run (with ``optimizer``):
    everything; backbone, ASPP, decoder and its logits must be there, and the number of classes must agree.

    Args:
        shapes: of the checkpoint's variables, by name.
        last_layers: also those of the decoder's logits and the classifier, if the number of classes agrees.
        optimizer: built for ``model.trainable_variables``.
    """
    whole = optimizer is not None
    targets = tf1_variables(model, optimizer)
    part_of = _PartOf(model.backbone.scope)
    loaded: dict[str, tf.Variable] = {}
    skipped: dict[str, str] = {}
    leftover: dict[str, str] = {}
    other_shapes = []
    for name, there in shapes.items():
        part, target = part_of(name), targets.get(name)
        here = None if target is None else tf1_shape(target)
        of_class = here is not None and part in _CLASS_PARTS and _differ_in_classes(there, here, part)
        if here is not None and of_class and not whole:
            skipped[name] = f"of another number of classes ({there[-1]} there, {here[-1]} here)"
        elif part in _LAST_LAYERS and not whole and not last_layers:
            skipped[name] = "of the last layers (init.last_layers=true loads them)"
        elif here == there:
            loaded[name] = target
        elif here is not None:
            cause = "another number of classes" if of_class else _CAUSES[part or BACKBONE]
            leftover[name] = f"has shape {shape_text(there)}, the model needs {shape_text(here)} ({cause})"
            other_shapes.append(name)
        elif (reason := _reason_to_skip(name, model.backbone.scope, optimizer)) is not None:
            skipped[name] = reason
        else:
            leftover[name] = "no such variable in the model"
    random = {name: part_of(name) or BACKBONE for name in targets if name not in loaded}
    errors = [
        *_wrong_network(shapes, targets),
        *_missing_variables(shapes, targets, part_of, leftover, whole),
        *_wrong_shapes(other_shapes, leftover, part_of),
        *_unknown_variables(leftover, other_shapes, part_of, whole),
        *_wrong_optimizer(shapes, optimizer),
    ]
    return VariableMapping(loaded, skipped, random, leftover, tuple(errors))


class _PartOf:
    """The part that a name belongs to; None: no part of a network with this backbone."""

    def __init__(self, scope: str):
        self._scope = scope

    def __call__(self, name: str) -> str | None:
        if name in (_STEP, *_BETA_POWERS) or name.rsplit("/", 1)[-1] in _SLOTS:
            return OPTIMIZER
        if name.startswith(f"{self._scope}/logits/"):
            return CLASSIFIER
        if name.startswith(f"{self._scope}/"):
            return BACKBONE
        return _PART_OF_SCOPE.get(re.sub(r"^aspp\d+(_depthwise|_pointwise)?$", "aspp", name.split("/")[0]))


def _differ_in_classes(there: Shape, here: Shape, part: str | None) -> bool:
    """Whether two shapes differ in the number of classes alone."""
    last = -2 if part == SCORES else -1
    return there != here and len(there) == len(here) and there[:last] == here[:last]


def _reason_to_skip(name: str, scope: str, optimizer: Momentum | Adam | None) -> str | None:
    """Why a variable without a counterpart is none that the model should have; None: it might be one."""
    last = name.rsplit("/", 1)[-1]
    if name == _STEP:
        return "the step"
    if name in _BETA_POWERS:
        return "of the optimizer" if optimizer is None else "that follow from the step"
    if last in _SLOTS:
        return "of the optimizer"
    if last == "ExponentialMovingAverage":
        return "moving averages of variables"
    if last == "mean_rgb":
        return "the mean pixel, a constant here"
    # slim's classifiers of other networks lie one scope deeper.
    if re.match(rf"{re.escape(scope)}/logits/", name, re.IGNORECASE) and not name.startswith(
        f"{scope}/logits/"
    ):
        return "of an image classifier in other layers"
    return None


def _wrong_network(shapes: Mapping[str, Shape], targets: Mapping[str, tf.Variable]) -> Iterable[str]:
    found = guess_network(shapes).get("backbone")
    ours = guess_network({name: tf1_shape(variable) for name, variable in targets.items()})["backbone"]
    if found != ours:
        known = f"looks like one of {found}" if found else f"names no backbone known here ({_some(shapes)})"
        yield f"it {known}, the model has {ours} (model.backbone)"


def _missing_variables(
    shapes: Mapping[str, Shape],
    targets: Mapping[str, tf.Variable],
    part_of: _PartOf,
    leftover: Mapping[str, str],
    whole: bool,
) -> Iterable[str]:
    needed = {BACKBONE, ASPP, DECODER, LOGITS} if whole else {BACKBONE}
    parts = collections.defaultdict(list)
    for name in targets:
        parts[part_of(name)].append(name)
    for part, names in parts.items():
        missing = [name for name in names if name not in shapes]
        # Variables that no gradient reached have no slots.
        if not missing or part == OPTIMIZER or (len(missing) == len(names) and part not in needed):
            continue
        text = f"{len(missing)} of {_count(len(names), 'variable')} of {part} missing, such as {missing[0]}"
        # Of a head that is missing as a whole no other name is near.
        alike = (part, None) if part == BACKBONE or len(missing) < len(names) else (part,)
        candidates = [name for name in leftover if part_of(name) in alike]
        if candidates:
            text += f" (nearest there: {nearest(missing[0], candidates)})"
        if part == SCORES:
            text += "; try another model.attention_v2"
        yield text


def _wrong_shapes(names: list[str], leftover: Mapping[str, str], part_of: _PartOf) -> Iterable[str]:
    # A slot has the shape of its variable: no news.
    of_network = [name for name in names if part_of(name) != OPTIMIZER] or names
    causes = collections.defaultdict(list)
    for name in of_network:
        causes[leftover[name].partition(" (")[2]].append(name)
    for alike in causes.values():
        # A kernel tells more than a vector.
        shown = next((name for name in alike if name.endswith("weights")), alike[0])
        more = f", and {len(alike) - 1} more like it" if len(alike) > 1 else ""
        yield f"{shown} {leftover[shown]}{more}"


def _unknown_variables(
    leftover: Mapping[str, str], other_shapes: list[str], part_of: _PartOf, whole: bool
) -> Iterable[str]:
    unknown = [
        name
        for name in leftover
        if name not in other_shapes
        # First weights may come with anything, except with more layers than ours.
        and (whole or (part_of(name) is not None and name.rsplit("/", 1)[-1] in _KINDS))
    ]
    if unknown:
        yield f"{_count(len(unknown), 'variable')} left over ({_some(unknown)})"


def _wrong_optimizer(shapes: Mapping[str, Shape], optimizer: Momentum | Adam | None) -> Iterable[str]:
    found = {_SLOTS.get(name.rsplit("/", 1)[-1], "") for name in shapes} - {""}
    ours = "adam" if isinstance(optimizer, Adam) else "momentum"
    if optimizer is not None and found and found != {ours}:
        theirs = " and ".join(sorted(found))
        yield f"it was trained with {theirs}, the configuration has train.optimizer={ours}"


def load_variables(checkpoint: Tf1Checkpoint, mapping: VariableMapping) -> None:
    """Assigns every value of ``mapping.loaded``; all are read before the first is assigned.

    Raises:
        UserError: as ``read_variables``.
    """
    values = read_variables(checkpoint, mapping)
    for name, variable in mapping.loaded.items():
        variable.assign(values[name])


def read_variables(checkpoint: Tf1Checkpoint, mapping: VariableMapping) -> dict[str, np.ndarray]:
    """The values of ``mapping.loaded``, in our shapes.

    Raises:
        UserError: ``mapping`` has errors (the message holds them all), or a value cannot be read or has
            another type.
    """
    if mapping.errors:
        raise UserError(f"{checkpoint.path}: does not fit the model: {'; '.join(mapping.errors)}")
    values = {}
    for name, variable in mapping.loaded.items():
        value, kind = checkpoint.read(name), variable.dtype.as_numpy_dtype
        if not np.can_cast(value.dtype, kind, "same_kind"):
            raise UserError(
                f"{checkpoint.path}: {name} is of type {value.dtype}, the model needs {np.dtype(kind)}"
            )
        values[name] = value.astype(kind, copy=False).reshape(variable.shape)
    return values


def write_tf1_checkpoint(prefix: str, model: PseudoSegModel, optimizer: Momentum | Adam) -> None:
    """Writes a checkpoint, see ``write_tensors``.

    Holds what a run of the authors' code would: network, slots, "global_step" (and Adam's powers of beta);
    ``tf.compat.v1.train.Saver`` reads it. States of dropout have no counterpart there.

    Args:
        prefix: of the files.
        optimizer: built for ``model.trainable_variables``.

    Raises:
        UserError: a checkpoint of this name exists, or it cannot be written.
    """
    values = {
        name: tf.reshape(variable, tf1_shape(variable))
        for name, variable in tf1_variables(model, optimizer).items()
    }
    if isinstance(optimizer, Adam):
        updates = int(optimizer.iterations.numpy()) + 1
        for name, beta in zip(_BETA_POWERS, optimizer.betas, strict=True):
            values[name] = tf.constant(beta**updates, tf.float32)
    write_tensors(prefix, values)


def guess_network(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Arguments of ``nn.model.build_model`` that names and shapes of a checkpoint tell.

    Returns:
        Those that could be told: "backbone", "num_classes", "aspp_channels", "decoder_channels",
        "attention_dim", "attention_v2", "width_multiplier", "atrous_rates" (their number alone is known).
    """
    guess: dict[str, Any] = {}
    scopes = {name.split("/")[0] for name in shapes}
    for scope, (plain, beta) in _BACKBONES.items():
        if scope in scopes:
            guess["backbone"] = beta if f"{scope}/conv1_1/weights" in shapes else plain
            break
    for name, key in (
        ("aspp0/weights", "aspp_channels"),
        ("decoder/decoder_conv0_pointwise/weights", "decoder_channels"),
        ("hyper_column/key/weights", "attention_dim"),
        ("pixel_normalization/weights", "num_classes"),
        ("logits/semantic/weights", "num_classes"),
    ):
        if shapes.get(name):
            guess[key] = shapes[name][-1]
    if "pixel_normalization/weights" in shapes:
        guess["attention_v2"] = "pixel_normalization/biases" not in shapes
    if guess.get("backbone") == "mobilenet_v1":
        last = shapes.get("MobilenetV1/Conv2d_13_pointwise/weights")
        guess["width_multiplier"] = last[-1] / 1024 if last else 1.0
    branches = sum(re.fullmatch(r"aspp\d+_depthwise/depthwise_weights", name) is not None for name in shapes)
    if branches:
        guess["atrous_rates"] = tuple(6 * number for number in range(1, branches + 1))
    return guess


def shape_text(shape: Shape) -> str:
    """Such as "3x3x32x64"; "scalar" without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")

"""Forward passes and training steps of this package, as quantities under the names of the reference files."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from pseudoseg_tf import steps
from pseudoseg_tf.assembly import (
    create_optimizer,
    model_gradient_multipliers,
    pixel_loss_options,
    pseudo_label_options,
)
from pseudoseg_tf.config import Config
from pseudoseg_tf.inference import predict
from pseudoseg_tf.nn import sgc
from pseudoseg_tf.nn.layers import BatchNorm, resize_align_corners, resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel, build_model
from pseudoseg_tf.nn.pyramid import pyramid_logits
from pseudoseg_tf.nn.tf1_names import tf1_names
from pseudoseg_tf.pseudo_label import make_pseudo_label
from pseudoseg_tf.tf1_checkpoint import tf1_shape
from tests.reference import formula

NUM_CLASSES = 21
Array = npt.NDArray[Any]
# A thunk for each quantity: most are wanted, not all.
Quantities = dict[str, Callable[[], Any]]


def formula_model(config: Config) -> PseudoSegModel:
    """The network of a configuration with the weights of ``formula``."""
    model = build_model(NUM_CLASSES, **dataclasses.asdict(config.model), seed=config.train.seed)
    for name, shape, variable in named_variables(model):
        variable.assign(formula.variable(name, shape).reshape(variable.shape))
    return model


def named_variables(model: PseudoSegModel) -> Iterator[tuple[str, tuple[int, ...], tf.Variable]]:
    """TensorFlow 1 name and shape of every variable."""
    for name, variable in tf1_names(model).items():
        yield name, tf1_shape(variable), variable


# Evaluation mode


def forward(model: PseudoSegModel, pixels: Array) -> Quantities:
    """The quantities of ``forward_*.npz``.

    Args:
      pixels: float32 [B, H, W, 3] in [0, 255], not rounded to uint8.
    """
    valid = tf.ones(pixels.shape[:3])
    images = model.normalize(tf.constant(pixels), valid)
    points = model.features(images, training=False)
    aspp = model.head.aspp(points.last)
    decoder = model.head.decoder.refine(aspp, points.skip)
    logits = model.decode(points, training=False)
    labels, probabilities = predict(model, pixels, (0, 0))
    many_labels, many_probabilities = predict(model, pixels, (0, 0), scales=(0.5, 1.0), flip=True)
    # The reference takes a softmax of the mean once more.
    many_probabilities = tf.nn.softmax(many_probabilities)
    quantities: Quantities = {
        "logits": lambda: logits,
        "cls_logits": lambda: model.classify(points)[0],
        "predict_labels": lambda: labels,
        "multi_scale_labels": lambda: many_labels,
        "predict_labels_prob_every4": lambda: probabilities[:, ::4, ::4],
        "predict_labels_prob_stats": lambda: statistics(probabilities),
        "multi_scale_prob_every4": lambda: many_probabilities[:, ::4, ::4],
        "multi_scale_prob_stats": lambda: statistics(many_probabilities),
        "aspp_projection_every8": lambda: aspp[..., ::8],
        "aspp_projection_stats": lambda: statistics(aspp),
        "decoder_every16": lambda: decoder[:, ::2, ::2, ::16],
        "decoder_stats": lambda: statistics(decoder),
    }
    for scale in (0.5, 0.75, 1.5, 2.0):
        quantities[f"logits_scale_{scale}"] = lambda scale=scale: pyramid_logits(model, images, [scale])
        for merge in ("max", "average"):
            quantities[f"logits_pyramid_{scale}_1.0_{merge}"] = lambda scale=scale, merge=merge: (
                pyramid_logits(model, images, [scale, 1.0], merge)
            )
    for name, values in end_points(model, images).items():
        step = 1 if values.shape[1] <= 13 else 4
        quantities[f"end_point:{name}:sub"] = lambda v=values, s=step: v[:, ::s, ::s, ::16]
        quantities[f"end_point:{name}:stats"] = lambda v=values: statistics(v)
        quantities[f"end_point:{name}:channel_mean"] = lambda v=values: tf.reduce_mean(v, [1, 2])
        quantities[f"end_point:{name}:shape"] = lambda v=values: np.array(v.shape)
    return quantities


def end_points(model: PseudoSegModel, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Outputs of the stem, the skip and the stages, under the reference's names without the network's."""
    backbone = model.backbone
    prefix = f"{backbone.scope}/"
    scopes = [scope.removeprefix(prefix) for scope, _ in backbone.units()]
    result, x = {}, images
    for name, conv in zip(scopes, backbone.stem, strict=False):
        x = conv(x)
        result[name] = x
    points = model.features(images, training=False)
    # Blocks in the order in which they occur.
    blocks = dict.fromkeys(match[1] for scope in scopes if (match := re.match(r"(.*block\d+)/", scope)))
    result |= dict(zip(blocks, points.stages, strict=True))
    skips = {
        "xception_65": "entry_flow/block2/unit_1/xception_module/separable_conv2_pointwise",
    }
    result[skips.get(backbone.scope, "block1/unit_2/bottleneck_v1/conv3")] = points.skip
    return result


def statistics(values: tf.Tensor) -> Array:
    """Mean, standard deviation, sum of absolute values, smallest, largest; in float64."""
    x = np.asarray(values, np.float64)
    return np.array([x.mean(), x.std(), np.abs(x).sum(), x.min(), x.max()])


# Training step


class Call(NamedTuple):
    """One call of a recorded function."""

    arguments: tuple[Any, ...]
    result: Any


@contextlib.contextmanager
def recorded(owner: Any, name: str) -> Iterator[list[Call]]:
    """Within it, calls of ``owner.name`` are noted."""
    function, calls = getattr(owner, name), []

    def record(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        calls.append(Call(arguments, result))
        return result

    with mock.patch.object(owner, name, record):
        yield calls


class Step(NamedTuple):
    """One training step: what it computed and what it changed."""

    quantities: Quantities
    # L2 norms of all gradients, after the multipliers.
    norms: dict[str, float]


def training_step(config: Config, seed: int) -> Step:
    """Runs one step on the inputs of ``seed`` and returns the quantities of ``step_*.npz``."""
    model = formula_model(config)
    crop, batch = config.data.crop_size[0], config.data.batch_labeled
    inputs, labeled = formula.training_inputs(seed, crop, batch, NUM_CLASSES)
    weakly = config.train.mode == "weakly"

    def normalized(pixels: Array) -> tf.Tensor:
        # Padding and CutOut hold the mean pixel already.
        return model.normalize(tf.constant(pixels), tf.ones(pixels.shape[:3]))

    optimizer = create_optimizer(config.train)
    variables = model.trainable_variables
    optimizer.build(variables)
    with contextlib.ExitStack() as stack:
        calls = {
            name: stack.enter_context(recorded(model, name))
            for name in ("decode", "classify", "grad_cam", "sgc")
        }
        attention = stack.enter_context(recorded(sgc, "attention_weights"))
        updates = stack.enter_context(_recorded_updates())
        before = {name: variable.numpy() for name, _, variable in named_variables(model)}
        tape = stack.enter_context(tf.GradientTape())
        terms, branch = steps.pseudoseg_losses(
            model,
            steps.LabeledBatch(
                image=normalized(labeled.image),
                labels=tf.constant(labeled.labels),
                valid=tf.constant(labeled.valid),
            ),
            steps.AdditionalBatch(
                weak=normalized(inputs.weak),
                strong=normalized(inputs.strong),
                valid=tf.constant(inputs.valid),
                image_labels=tf.constant(formula.image_labels(inputs.labels)),
            ),
            weakly=weakly,
            options=pseudo_label_options(config),
            weights=steps.LossWeights(consistency=config.pseudo.weight, decay=config.train.weight_decay),
            pixels=pixel_loss_options(config.train, 0),
        )
    rate = float(optimizer.learning_rate)
    multipliers = model_gradient_multipliers(model, config.train)
    pairs = [
        (gradient * factor, variable)
        for gradient, factor, variable in zip(
            tape.gradient(terms["total"], variables), multipliers, variables, strict=True
        )
        if gradient is not None
    ]
    optimizer.apply_gradients(pairs)
    gradients = {variable.ref(): gradient.numpy() for gradient, variable in pairs}
    named = {name: (shape, variable) for name, shape, variable in named_variables(model)}
    of_name = {
        name: gradients[variable.ref()].reshape(shape)
        for name, (shape, variable) in named.items()
        if variable.ref() in gradients
    }

    quantities: Quantities = {}
    quantities |= _weak_quantities(config, branch, calls, attention, inputs.valid)
    quantities |= _labeled_quantities(calls, attention)
    quantities |= _loss_quantities(terms, rate, of_name)
    if weakly:
        quantities["cls_pass_logits"] = lambda: calls["classify"][0].result[0]
    for name, gradient in of_name.items():
        new = named[name][1].numpy().reshape(gradient.shape)
        for part, values in (("grad", gradient), ("new", new), ("old", before[name].reshape(gradient.shape))):
            quantities[f"{part}:{name}"] = lambda v=values: v
            quantities[f"{part}:{name}:axis-2_every_32"] = lambda v=values: v[..., ::32, :]
    quantities |= _batch_norm_quantities(model, updates, before)
    return Step(
        quantities, {name: float(np.linalg.norm(each.astype(np.float64))) for name, each in of_name.items()}
    )


@contextlib.contextmanager
def _recorded_updates() -> Iterator[dict[int, list[tuple[Array, Array]]]]:
    """Notes, per batch norm, the statistics of each pass, as often as they move the moving ones."""
    noted: dict[int, list[tuple[Array, Array]]] = {}
    update = BatchNorm._update

    def record(layer: BatchNorm, mean: tf.Tensor, variance: tf.Tensor) -> None:
        noted.setdefault(id(layer), []).extend([(mean.numpy(), variance.numpy())] * layer.update_count)
        update(layer, mean, variance)

    with mock.patch.object(BatchNorm, "_update", record):
        yield noted


def _weak_quantities(
    config: Config,
    branch: steps.WeakBranch,
    calls: Mapping[str, Sequence[Call]],
    attention: Sequence[Call],
    valid: Array,
) -> Quantities:
    pseudo = config.pseudo
    size = branch.decoder_logits.shape[1:3]
    cam = calls["grad_cam"][0]
    # The pass for Grad-CAM is the last but one that classifies; the labeled one follows it.
    image_logits = calls["classify"][-2].result[0]
    with_background = _with_background(cam.result)
    at_decoder = resize_mask(tf.constant(valid, tf.float32), size)
    confident = tf.cast(branch.confidence >= pseudo.threshold, tf.float32)

    def fused(temperature: float) -> tf.Tensor:
        label, _ = make_pseudo_label(
            branch.decoder_logits,
            branch.sgc_logits,
            source=pseudo.source,
            gamma=pseudo.gamma,
            temperature=temperature,
            normalize_maps=pseudo.normalize,
        )
        return tf.reduce_max(label, -1)

    def softmax_of_attention() -> tf.Tensor:
        # The reference overwrites it by the softmax of the normalized logits only after this was read.
        return tf.reduce_max(tf.nn.softmax(branch.sgc_logits), -1)

    return {
        "logits_weak": lambda: branch.decoder_logits,
        "logits_strong": lambda: calls["decode"][1].result,
        "cam_weak": lambda: resize_align_corners(with_background, size),
        "grad_cam_weak_raw": lambda: cam.result,
        "cam_with_bg_weak_raw": lambda: with_background,
        "cam_image_logits_weak": lambda: image_logits,
        "cam_image_label_weak": lambda: cam.arguments[2],
        "cam_valid_weak": lambda: calls["sgc"][0].arguments[2][..., tf.newaxis],
        "attention_weak": lambda: attention[0].result,
        "att_logits_weak_raw": lambda: calls["sgc"][0].result,
        "att_logits_weak": lambda: branch.sgc_logits,
        "max_prob_weak": lambda: tf.reduce_max(tf.nn.softmax(branch.decoder_logits), -1),
        "max_att_prob_weak": softmax_of_attention,
        "max_prob_avg": lambda: fused(1.0),
        "max_prob_avg_t": lambda: fused(pseudo.temperature),
        "pseudo_label": lambda: branch.pseudo_label if pseudo.soft else tf.argmax(branch.pseudo_label, -1),
        "valid_mask": lambda: (at_decoder * confident)[..., tf.newaxis],
    }


def _labeled_quantities(calls: Mapping[str, Sequence[Call]], attention: Sequence[Call]) -> Quantities:
    cam = calls["grad_cam"][1]
    return {
        "semantic_seg": lambda: calls["decode"][2].result,
        "grad_cam_labeled_raw": lambda: cam.result,
        "cam_with_bg_labeled_raw": lambda: _with_background(cam.result),
        "cam_image_logits_labeled": lambda: calls["classify"][-1].result[0],
        "cam_image_label_labeled": lambda: cam.arguments[2],
        "cam_valid_labeled": lambda: calls["sgc"][1].arguments[2][..., tf.newaxis],
        "attention_labeled": lambda: attention[1].result,
        "att_logits_labeled_raw": lambda: calls["sgc"][1].result,
        "att_logits_labeled": lambda: calls["sgc"][1].result,
    }


def _with_background(cam: tf.Tensor) -> tf.Tensor:
    return tf.concat([1.0 - tf.reduce_max(cam, -1, keepdims=True), cam], -1)


def _loss_quantities(
    terms: Mapping[str, tf.Tensor], rate: float, gradients: Mapping[str, Array]
) -> Quantities:
    names = {
        "loss_cls": "classification",
        "loss_consistency": "consistency",
        "regularization_loss": "decay",
        "reg_sum": "decay",
        "total_loss": "total",
        "LOSS/loss_cls": "classification",
        "LOSS/loss_consistency": "consistency",
        "LOSS/semantic_merged_logits/mul_1": "supervised",
        "LOSS/self-attention_self-attention_logits/mul_1": "attention",
    }
    squares = sum(float(np.sum(each.astype(np.float64) ** 2)) for each in gradients.values())
    return {
        **{f"scalar:{name}": lambda term=term: terms[term] for name, term in names.items()},
        "scalar:learning_rate": lambda: rate,
        "scalar:global_norm": lambda: np.sqrt(squares),
    }


def _batch_norm_quantities(
    model: PseudoSegModel, updates: Mapping[int, Sequence[tuple[Array, Array]]], before: Mapping[str, Array]
) -> Quantities:
    quantities: Quantities = {}
    for name, (layer, index) in moving_statistics(model).items():
        values = np.stack([update[index] for update in updates[id(layer)]])
        old = before[name]
        from_old = old - sum((old - value) * np.float32(1.0 - layer._decay) for value in values)
        moved = (layer.moving_mean, layer.moving_variance)[index]
        quantities[f"bn:{name}:batch_values"] = lambda v=values: v
        quantities[f"bn:{name}:sequential"] = lambda v=moved: v
        quantities[f"bn:{name}:all_from_old"] = lambda v=from_old: v
    return quantities


def moving_statistics(model: PseudoSegModel) -> dict[str, tuple[BatchNorm, int]]:
    """Name of each moving statistic -> its batch norm, and 0 for the mean or 1 for the variance."""
    layers = [layer for layer in model.submodules if isinstance(layer, BatchNorm)]
    owners = {layer.moving_mean.ref(): (layer, 0) for layer in layers}
    owners |= {layer.moving_variance.ref(): (layer, 1) for layer in layers}
    return {name: owners[v.ref()] for name, v in tf1_names(model).items() if v.ref() in owners}

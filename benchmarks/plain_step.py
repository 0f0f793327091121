"""The training step as the paper's Figure 1 draws it, a pass for each purpose: what ``steps.py`` is measured against.

Two backbone passes of the weak view (decoder; classifier and Grad-CAM), one of the strong view, two of the labeled
images (decoder; classifier, Grad-CAM and self-attention); Grad-CAM by a gradient graph per class. In weakly mode the
classifier learns in a sixth. Same losses as ``steps.pseudoseg_losses`` where dropout is off.
"""

from __future__ import annotations

import tensorflow as tf

from pseudoseg_tf import losses
from pseudoseg_tf.config import Config
from pseudoseg_tf.nn.grad_cam import divide_by_maximum
from pseudoseg_tf.nn.layers import EndPoints, resize_align_corners, resize_mask
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.pseudo_label import AcrossReplicas, make_pseudo_label, one_replica
from pseudoseg_tf.steps import (
    AdditionalBatch,
    GradientSum,
    LabeledBatch,
    LossWeights,
    PseudoLabelOptions,
    WeakBranch,
)


def plain_losses(
    model: PseudoSegModel,
    labeled: LabeledBatch,
    additional: AdditionalBatch,
    *,
    weakly: bool,
    options: PseudoLabelOptions,
    weights: LossWeights,
    across_replicas: AcrossReplicas = one_replica,
    pixels: losses.PixelLossOptions = losses.ALL_PIXELS,
    gradients: GradientSum | None = None,
) -> tuple[dict[str, tf.Tensor], WeakBranch]:
    """As ``steps.pseudoseg_losses``; of ``options``, only those of the pseudo label itself count.

    One tape over all passes.
    """
    with (gradients or GradientSum()).of_pass() as terms:
        branch = _losses(model, labeled, additional, weakly, options, weights, across_replicas, pixels, terms)
    return {**terms, "total": tf.add_n(list(terms.values()))}, branch


def _losses(
    model: PseudoSegModel,
    labeled: LabeledBatch,
    additional: AdditionalBatch,
    weakly: bool,
    options: PseudoLabelOptions,
    weights: LossWeights,
    across_replicas: AcrossReplicas,
    pixels: losses.PixelLossOptions,
    terms: dict[str, tf.Tensor],
) -> WeakBranch:
    """Fills ``terms``."""
    # Before any batch norm is updated: this pass sees the moving statistics of the step's start.
    weak = model.features(additional["weak"], training=False)
    image_labels = additional["image_labels"]
    if not weakly:
        image_labels = tf.cast(tf.nn.sigmoid(model.classify(weak)[0]) >= 0.5, tf.float32)
    cam = _grad_cam(model, weak, image_labels)

    decoder_logits = model(additional["weak"], training=True)
    # Here, because the moving averages of batch norm depend on the order of the passes.
    learned = model.features(additional["weak"], training=True) if weakly else None
    size = tf.shape(decoder_logits)[1:3]
    valid = resize_mask(tf.cast(additional["valid"], tf.float32), size)
    sgc_logits = resize_align_corners(model.sgc(weak, cam, valid, training=True), size)
    pseudo_label, confidence = make_pseudo_label(
        decoder_logits,
        sgc_logits,
        source=options.source,
        gamma=options.gamma,
        temperature=options.temperature,
        soft=options.soft,
        normalize_maps=options.normalize,
        across_replicas=across_replicas,
    )
    strong_logits = model(additional["strong"], training=True)
    terms["consistency"] = weights.consistency * losses.consistency(
        strong_logits, pseudo_label, valid, confidence, options.threshold, across_replicas
    )

    logits = model(labeled["image"], training=True)
    terms["supervised"] = weights.supervised * losses.pixel_cross_entropy(
        logits, labeled["labels"], across_replicas, pixels
    )

    end_points = model.features(labeled["image"], training=True)
    image_labels = losses.image_labels_of(labeled["labels"], model.num_classes, model.has_background)
    image_logits, _ = model.classify(end_points if learned is None else learned, training=True)
    terms["classification"] = weights.classification * losses.image_classification(
        image_logits, additional["image_labels"] if weakly else image_labels, across_replicas
    )
    valid = resize_mask(tf.cast(labeled["valid"], tf.float32), size)
    sgc_labeled = model.sgc(end_points, _grad_cam(model, end_points, image_labels), valid, training=True)
    terms["attention"] = weights.attention * losses.pixel_cross_entropy(
        sgc_labeled, labeled["labels"], across_replicas, pixels
    )
    terms["decay"] = losses.weight_decay(model.regularized_weights, weights.decay) / across_replicas(
        tf.constant(1.0)
    )
    return WeakBranch(decoder_logits, cam, sgc_logits, pseudo_label, confidence)


def plain_passes(config: Config) -> tuple[int, int]:
    """What a step costs in forward passes of the backbone and of the decoder with ASPP, as ``cost.forward_passes``.

    The passes for classifier and Grad-CAM, of the weak view and of the labeled images, have no use for the latter.
    """
    labeled, additional = config.data.batch_labeled, config.data.batch_unlabeled
    learned_weak = config.train.mode == "weakly"
    return labeled * (3 + 3) + additional * (2 + 3 * learned_weak + 3), labeled * 3 + additional * (1 + 3)


def _grad_cam(model: PseudoSegModel, end_points: EndPoints, image_labels: tf.Tensor) -> tf.Tensor:
    """Class maps by a gradient on the whole feature map for each class."""
    features = tf.cast(end_points.last, tf.float32)
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(features)
        image_logits = model.classifier(tf.reduce_mean(features, [1, 2]))
        by_class = tf.unstack(image_logits, axis=-1)
    maps = [
        tf.nn.relu(tf.einsum("bhwf,bf->bhw", features, tf.reduce_mean(tape.gradient(one, features), [1, 2])))
        for one in by_class
    ]
    cam = tf.stack(maps, -1) * image_labels[:, tf.newaxis, tf.newaxis, :]
    return tf.stop_gradient(divide_by_maximum(cam))

"""One training step, as the paper's Figure 1: losses of a batch, before gradients are applied.

No strategy, no files: models and tensors in, tensors out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypedDict

import tensorflow as tf

from pseudoseg_tf import losses
from pseudoseg_tf.nn.layers import EndPoints, resize_align_corners, resize_mask, statistics_updates
from pseudoseg_tf.nn.model import PseudoSegModel
from pseudoseg_tf.pseudo_label import AcrossReplicas, make_pseudo_label, one_replica


class LabeledBatch(TypedDict):
    """Weakly augmented images with pixel labels."""

    image: tf.Tensor  # normalized float32 [B, H, W, 3]
    labels: tf.Tensor  # integer [B, H, W], 255 = ignore
    valid: tf.Tensor  # [B, H, W], 0 in padding


class AdditionalBatch(TypedDict):
    """Two views of images without pixel labels."""

    weak: tf.Tensor  # normalized float32 [B, H, W, 3]
    strong: tf.Tensor  # the same crops, color-jittered and cut out
    valid: tf.Tensor  # [B, H, W], 0 in padding and CutOut
    image_labels: tf.Tensor  # float32 [B, K]; read in weakly mode only


class LossWeights(NamedTuple):
    """Factors of the terms of the total."""

    consistency: float | tf.Tensor = 1.0  # L_u
    classification: float | tf.Tensor = 1.0  # L_x
    attention: float | tf.Tensor = 1.0  # L_sa
    decay: float | tf.Tensor = 4e-5  # weight decay
    supervised: float | tf.Tensor = 1.0  # L_s


class PseudoLabelOptions(NamedTuple):
    """How the pseudo label is made; the fields of ``PseudoConfig``."""

    source: Literal["fused", "decoder", "sgc"] = "fused"
    gamma: float = 0.5
    temperature: float = 0.5
    soft: bool = True
    threshold: float = 0.0
    normalize: bool = True
    normalize_alone: bool = False
    use_attention: bool = True
    classify_labeled: bool = False
    weak_inference: bool = False
    strong_statistics: bool = True
    repeat_statistics: bool = True
    share_weak_pass: bool = False


class WeakBranch(NamedTuple):
    """What the weak view says, all constants at decoder resolution; kept for pictures and statistics."""

    decoder_logits: tf.Tensor
    # Zeros without attention; the class maps are at the resolution of the last stage.
    cam: tf.Tensor
    sgc_logits: tf.Tensor
    pseudo_label: tf.Tensor
    confidence: tf.Tensor


class GradientSum:
    """The gradient of the losses, taken pass by pass: each one's activations are gone before the next begins.

    The gradient of a sum at once would keep the activations of all passes.

    Args:
        variables: with respect to these; none: no gradient is taken.
        scale: what a loss is multiplied by before its gradient is taken, as a function.

    Attributes:
        values: one for each variable; None where no loss so far depends on it.
    """

    def __init__(
        self, variables: Sequence[tf.Variable] = (), scale: Callable[[tf.Tensor], tf.Tensor] = tf.identity
    ):
        self.values: list[tf.Tensor | None] = [None] * len(variables)
        self._variables = variables
        self._scale = scale

    @contextlib.contextmanager
    def of_pass(self) -> Iterator[dict[str, tf.Tensor]]:
        """Adds the gradient of the losses that are put into the dictionary within."""
        terms: dict[str, tf.Tensor] = {}
        with tf.GradientTape() as tape:
            yield terms
            loss = self._scale(tf.add_n(list(terms.values())))
        new = tape.gradient(loss, self._variables)
        self.values = [_sum(*pair) for pair in zip(self.values, new, strict=True)]

    @contextlib.contextmanager
    def of_weights(self) -> Iterator[dict[str, tf.Tensor]]:
        """As ``of_pass``, for losses of the weights alone, whose gradient would else wait in memory from the start."""
        with tf.control_dependencies(self._known()), self.of_pass() as terms:
            yield terms

    def before(self, images: tf.Tensor) -> tf.Tensor:
        """``images``, to begin the next pass with: they wait for the gradients so far."""
        return _after(self._known(), images)

    def _known(self) -> list[tf.Tensor]:
        return [value for value in self.values if value is not None]


def supervised_losses(
    model: PseudoSegModel,
    labeled: LabeledBatch,
    weights: LossWeights,
    across_replicas: AcrossReplicas = one_replica,
    pixels: losses.PixelLossOptions = losses.ALL_PIXELS,
    gradients: GradientSum | None = None,
) -> dict[str, tf.Tensor]:
    """L_s and weight decay: plain DeepLabv3+, the paper's supervised baseline.

    Args:
        pixels: which pixels count in L_s, and how much.
        gradients: gets the gradient; None: nobody asks for it.
    """
    gradients = gradients or GradientSum()
    with gradients.of_pass() as terms:
        logits = model(labeled["image"], training=True)
        terms["supervised"] = weights.supervised * losses.pixel_cross_entropy(
            logits, labeled["labels"], across_replicas, pixels
        )
    with gradients.of_weights() as weight_terms:
        weight_terms["decay"] = _decay(model, weights, across_replicas)
    return _with_total(terms | weight_terms)


def pseudoseg_losses(
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
    """The four losses and weight decay of one batch (paper sections 3.1 to 3.3).

    The passes read the weights and the moving statistics of the step's start; batch-norm updates follow one
    another in the order weak, strong, labeled. One pass serves where the reference makes two of the same
    images and weights; such a pass moves the backbone's statistics twice (``repeat_statistics``).

    Args:
        weakly: image-level labels of the additional images are given; they mask their Grad-CAM and alone
            train the classifier, as in the reference. Otherwise the classifier's own prediction masks
            Grad-CAM and the labeled images train the classifier.
        pixels: which pixels count in L_s and L_sa, and how much.
        gradients: gets the gradient of the total; None: nobody asks for it.

    Returns:
        Losses "supervised" (L_s), "consistency" (L_u), "classification" (L_x), "attention" (L_sa), "decay",
        already weighted, and their sum "total"; and the weak branch. Terms that have nothing to train are 0.
    """
    gradients = gradients or GradientSum()
    classify_weak = weakly and not options.classify_labeled
    classify_labels = options.classify_labeled if weakly else options.use_attention
    # How often the reference passes these images through the backbone.
    weak_passes, labeled_passes = 1, 1
    if options.repeat_statistics:
        weak_passes += classify_weak and not options.weak_inference
        labeled_passes += options.use_attention + (weakly and options.classify_labeled)
    terms = {name: tf.constant(0.0) for name in ("classification", "attention")}
    # Passes with moving statistics come before any batch norm is updated.
    wants_moving = options.weak_inference or (options.use_attention and not options.share_weak_pass)
    needs_moving = wants_moving and model.fine_tune_batch_norm
    moving = model.features(additional["weak"], training=False) if needs_moving else None
    batch = None
    if classify_weak:
        with gradients.of_pass() as weak_terms, statistics_updates(model.backbone, weak_passes):
            batch = model.features(additional["weak"], training=True)
            image_logits, _ = model.classify(batch, training=True)
            weak_terms["classification"] = weights.classification * losses.image_classification(
                image_logits, additional["image_labels"], across_replicas
            )
        terms |= weak_terms
    elif moving is None or not options.weak_inference:
        with statistics_updates(model.backbone, weak_passes):
            batch = model.features(additional["weak"], training=True)
    cam_features = moving or batch
    decoder_features = cam_features if options.weak_inference else batch
    assert cam_features is not None and decoder_features is not None
    branch = weak_branch(
        model,
        decoder_features,
        cam_features,
        additional["valid"],
        image_labels=additional["image_labels"] if weakly else None,
        options=options,
        training=not options.weak_inference,
        across_replicas=across_replicas,
    )

    strong = _after([branch.pseudo_label], gradients.before(additional["strong"]))
    keeps_statistics = contextlib.nullcontext() if options.strong_statistics else statistics_updates(model, 0)
    with gradients.of_pass() as strong_terms, keeps_statistics:
        strong_logits = model(strong, training=True)
        size = tf.shape(strong_logits)[1:3]
        strong_terms["consistency"] = weights.consistency * losses.consistency(
            strong_logits,
            branch.pseudo_label,
            resize_mask(tf.cast(additional["valid"], tf.float32), size),
            branch.confidence,
            options.threshold,
            across_replicas,
        )
    terms |= strong_terms

    # One pass of the labeled images serves decoder, classifier and self-attention.
    images = gradients.before(labeled["image"])
    with gradients.of_pass() as labeled_terms:
        with statistics_updates(model.backbone, labeled_passes):
            end_points = model.features(images, training=True)
        decoder_logits = model.decode(end_points, training=True)
        labeled_terms["supervised"] = weights.supervised * losses.pixel_cross_entropy(
            decoder_logits, labeled["labels"], across_replicas, pixels
        )
        image_labels = losses.image_labels_of(labeled["labels"], model.num_classes, model.has_background)
        image_logits, cam_weights = model.classify(end_points, training=True)
        if classify_labels:
            labeled_terms["classification"] = weights.classification * losses.image_classification(
                image_logits, image_labels, across_replicas
            )
        if options.use_attention:
            cam = model.grad_cam(end_points, cam_weights, image_labels)
            valid = resize_mask(tf.cast(labeled["valid"], tf.float32), size)
            sgc_logits = model.sgc(end_points, cam, valid, training=True)
            labeled_terms["attention"] = weights.attention * losses.pixel_cross_entropy(
                sgc_logits, labeled["labels"], across_replicas, pixels
            )
    with gradients.of_weights() as weight_terms:
        weight_terms["decay"] = _decay(model, weights, across_replicas)
    return _with_total(terms | labeled_terms | weight_terms), branch


def weak_branch(
    model: PseudoSegModel,
    decoder_features: EndPoints,
    cam_features: EndPoints,
    valid: tf.Tensor,
    *,
    image_labels: tf.Tensor | None,
    options: PseudoLabelOptions,
    training: bool,
    across_replicas: AcrossReplicas = one_replica,
) -> WeakBranch:
    """Pseudo label of the weak view; nothing in it carries a gradient.

    Args:
        decoder_features, cam_features: the weak view's end points, for the decoder (training mode) and for
            classifier, Grad-CAM and self-attention (inference mode).
        valid: [B, H, W]; the strong view's: cut-out cells leave the attention too, as in the reference.
        image_labels: [B, K] where given (weakly mode); None: the classifier decides, sigmoid >= 0.5.
        training: batch norm and dropout of the heads as in a training step.
    """
    decoder_features, cam_features = _constant(decoder_features), _constant(cam_features)
    decoder_logits = tf.stop_gradient(model.decode(decoder_features, training=training))
    size = tf.shape(decoder_logits)[1:3]
    if options.use_attention:
        image_logits, cam_weights = model.classify(cam_features)
        if image_labels is None:
            image_labels = tf.cast(tf.nn.sigmoid(image_logits) >= 0.5, tf.float32)
        cam = model.grad_cam(cam_features, cam_weights, image_labels)
        valid = resize_mask(tf.cast(valid, tf.float32), size)
        sgc_logits = tf.stop_gradient(model.sgc(cam_features, cam, valid, training=training))
        sgc_logits = resize_align_corners(sgc_logits, size)
    else:
        cam = tf.zeros(
            [*tf.unstack(tf.shape(cam_features.last)[:3]), model.num_classes - model.has_background]
        )
        sgc_logits = tf.zeros_like(decoder_logits)
    pseudo_label, confidence = make_pseudo_label(
        decoder_logits,
        sgc_logits,
        source=options.source,
        gamma=options.gamma,
        temperature=options.temperature,
        soft=options.soft,
        normalize_maps=options.normalize,
        normalize_alone=options.normalize_alone,
        across_replicas=across_replicas,
    )
    return WeakBranch(decoder_logits, cam, sgc_logits, pseudo_label, confidence)


def _after(first: Sequence[tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """``images``, not before ``first`` are computed."""
    with tf.control_dependencies(first):
        return tf.identity(images)


def _sum(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    return b if a is None else a if b is None else a + b


def _constant(end_points: EndPoints) -> EndPoints:
    return tf.nest.map_structure(tf.stop_gradient, end_points)


def _decay(model: PseudoSegModel, weights: LossWeights, across_replicas: AcrossReplicas) -> tf.Tensor:
    replicas = across_replicas(tf.constant(1.0))
    return losses.weight_decay(model.regularized_weights, weights.decay) / replicas


def _with_total(terms: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {**terms, "total": tf.add_n(list(terms.values()))}

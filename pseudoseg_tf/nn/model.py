"""PseudoSegModel: DeepLabv3+, a one-layer image classifier, Grad-CAM and self-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.deeplab import ASPP, Decoder, DeepLabHead
from pseudoseg_tf.nn.grad_cam import classify_with_weights, grad_cam
from pseudoseg_tf.nn.layers import (
    BatchNorm,
    BatchNormFactory,
    Conv,
    Dropout,
    EndPoints,
    Initializer,
    SeedSequence,
    resize_align_corners,
    resize_mask,
    truncated_normal,
)
from pseudoseg_tf.nn.mobilenet import MobileNetV1
from pseudoseg_tf.nn.resnet import ResNetV1
from pseudoseg_tf.nn.sgc import SelfAttention
from pseudoseg_tf.nn.xception import Xception65

BackboneName = Literal[
    "mobilenet_v1", "xception_65", "resnet_v1_50_beta", "resnet_v1_101_beta", "resnet_v1_50", "resnet_v1_101"
]
Backbone = MobileNetV1 | ResNetV1 | Xception65
# What slim's ResNets of the 7x7 stem subtract, and the pixel that padding and CutOut stand for.
_MEAN_RGB = (123.15, 115.90, 103.06)


class PseudoSegModel(tf_keras.Model):
    """The network of the paper's Figure 1. Heads and self-attention do not know the backbone.

    ``call`` is the segmentation network alone; the training step uses the parts.

    Args:
        backbone: layer from normalized images to ``EndPoints``.
        head: layer from ``EndPoints`` to ``decoder_logits``.
        sgc: self-attention over hypercolumn features.
        num_classes: C, background included.
        background: class 0 is the background: no class of the image-level classifier, of which there are K, and
            in self-attention what the others leave. Else K = C.
        hypercolumn: the stages that self-attention sees, 1 for the last one, 2 for the one before, ...
        classifier_keep_prob: of the dropout before the image-level classifier.
        classifier_initializer: of its kernel.
        fine_tune_batch_norm: the backbone trains with batch statistics.
        mean_rgb: what is subtracted from pixels; None: pixels are scaled to [-1, 1].
        seed: of the classifier's dropout.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: DeepLabHead,
        sgc: SelfAttention,
        num_classes: int,
        *,
        background: bool = True,
        hypercolumn: Sequence[int] = (1, 2),
        classifier_keep_prob: float = 1.0,
        classifier_initializer: Initializer = "glorot_uniform",
        fine_tune_batch_norm: bool = True,
        mean_rgb: Sequence[float] | None = None,
        seed: int = 0,
    ):
        super().__init__(name="pseudoseg")
        self.backbone = backbone
        self.head = head
        self.sgc_attention = sgc
        self.classifier = tf_keras.layers.Dense(
            num_classes - background,
            kernel_initializer=classifier_initializer,
            # Logits feed a loss and Grad-CAM: float32 under every precision policy.
            dtype="float32",
            name="image_logits",
        )
        self.classifier_dropout = Dropout(classifier_keep_prob, seed, name="image_dropout")
        self.num_classes = num_classes
        self.has_background = background
        self.fine_tune_batch_norm = fine_tune_batch_norm
        for layer in backbone.submodules:
            if isinstance(layer, BatchNorm):
                layer.frozen = not fine_tune_batch_norm
        # The reference concatenates the last stage first.
        self._hypercolumn = tuple(sorted(hypercolumn))
        self._mean_rgb = None if mean_rgb is None else np.array(mean_rgb, np.float32)

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalized images [B, H, W, 3] -> float32 decoder_logits [B, (H-1)/4+1, (W-1)/4+1, C]."""
        return self.decode(self.features(images, training=training), training=training)

    def normalize(self, images: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Pixels in [0, 255] -> what the backbone was made for; 0, the mean pixel, where ``valid`` [B, H, W] is 0."""
        scaled = images * (2.0 / 255.0) - 1.0 if self._mean_rgb is None else images - self._mean_rgb
        return scaled * tf.cast(valid, tf.float32)[..., tf.newaxis]

    def denormalize(self, normalized: tf.Tensor) -> tf.Tensor:
        """The inverse of ``normalize``: pixels in [0, 255], the mean pixel in padding."""
        return (normalized + 1.0) * 127.5 if self._mean_rgb is None else normalized + self._mean_rgb

    def features(self, images: tf.Tensor, training: bool) -> EndPoints:
        """Backbone pass; its batch norm uses batch statistics only if they are being fine-tuned."""
        images = tf.cast(images, self.compute_dtype)
        return self.backbone(images, training=training)

    def decode(self, end_points: EndPoints, training: bool) -> tf.Tensor:
        """End points -> float32 decoder_logits at stride 4."""
        return self.head(end_points, training=training)

    def classify(self, end_points: EndPoints, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """End points -> float32 image_logits [B, K], and the channel weights of ``grad_cam`` [K, F].

        Dropout follows the backbone's batch norm: off where that is not fine-tuned, as in the reference.
        """
        drops = training and self.fine_tune_batch_norm
        return classify_with_weights(
            lambda pooled: self.classifier(self.classifier_dropout(pooled, training=drops)), end_points.last
        )

    def grad_cam(self, end_points: EndPoints, weights: tf.Tensor, image_labels: tf.Tensor) -> tf.Tensor:
        """Class maps [B, h, w, K] in [0, 1] of the classes in ``image_labels`` [B, K]."""
        return grad_cam(end_points.last, weights, image_labels)

    def sgc(self, end_points: EndPoints, cam: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Refined class scores, float32 sgc_logits [B, h, w, C].

        Args:
            valid: [B, H', W'] at the decoder's resolution: the reference's masks come by way of it.
        """
        size = tf.shape(cam)[1:3]
        stages = [end_points.stages[-number] for number in self._hypercolumn]
        stages = [tf.cast(resize_align_corners(stage, size), stage.dtype) for stage in stages]
        cells = resize_mask(tf.cast(valid, tf.float32), size)
        return self.sgc_attention(tf.concat(stages, -1), cam, cells, training=training)

    @property
    def regularized_weights(self) -> list[tf.Variable]:
        """What weight decay applies to: kernels of convolutions and classifier.

        Not depthwise kernels, biases, batch norm or self-attention, as in the reference.
        """
        kept = {id(layer) for layer in self.sgc_attention.submodules}
        return [
            layer.kernel
            for layer in self.submodules
            if isinstance(layer, Conv | tf_keras.layers.Dense) and id(layer) not in kept
        ]


def build_model(
    num_classes: int,
    backbone: BackboneName = "mobilenet_v1",
    *,
    background: bool = True,
    output_stride: int = 16,
    atrous_rates: Sequence[int] = (6, 12, 18),
    multi_grid: Sequence[int] = (1, 1, 1),
    aspp_channels: int = 256,
    decoder_channels: int = 256,
    attention_dim: int = 128,
    hypercolumn: Sequence[int] = (1, 2),
    attention_v2: bool = True,
    width_multiplier: float = 1.0,
    aspp_keep_prob: float = 0.9,
    classifier_keep_prob: float = 0.0,
    batch_norm_decay: float = 0.0,
    synchronized_batch_norm: bool = False,
    fine_tune_batch_norm: bool = True,
    rematerialize: bool = False,
    seed: int = 0,
) -> PseudoSegModel:
    """A ``PseudoSegModel`` with all its variables made.

    Args:
        num_classes: C, background included.
        background: class 0 is the background; false: there is none.
        backbone: "mobilenet_v1", "xception_65", "resnet_v1_50_beta", "resnet_v1_101_beta", or a ResNet with the
            7x7 stem, "resnet_v1_50" or "resnet_v1_101".
        atrous_rates: as for output stride 16; doubled at 8.
        classifier_keep_prob: 0 for the reference's: 0.5 for Xception, else 1.
        batch_norm_decay: 0 for the reference's: 0.9997 (ResNet 0.95, self-attention 0.999).
        synchronized_batch_norm: batch statistics over all replicas.
        rematerialize: of the backbone's blocks, see ``layers.Backbone``.

    The other arguments are the fields of ``ModelConfig``; ``seed`` draws the initial weights.

    Example:
        >>> model = build_model(num_classes=21)
        >>> model(model.normalize(images, valid)).shape
        TensorShape([2, 129, 129, 21])
    """

    def batch_norms(decay: float, epsilon: float) -> BatchNormFactory:
        return lambda name: BatchNorm(
            batch_norm_decay or decay, epsilon, synchronized=synchronized_batch_norm, name=name
        )

    seeds = SeedSequence(seed)
    network: Backbone
    if backbone == "mobilenet_v1":
        network = MobileNetV1(output_stride, width_multiplier, batch_norms(0.9997, 1e-3), seeds)
    elif backbone == "xception_65":
        network = Xception65(output_stride, multi_grid, batch_norms(0.9997, 1e-3), seeds)
    else:
        depth: Literal[50, 101] = 101 if "101" in backbone else 50
        beta = backbone.endswith("_beta")
        network = ResNetV1(depth, beta, output_stride, multi_grid, batch_norms(0.95, 1e-5), seeds)
    network.rematerialize = rematerialize
    is_xception = isinstance(network, Xception65)
    head_norm = batch_norms(0.9997, 1e-5)
    rates = [rate * 16 // output_stride for rate in atrous_rates]
    head = DeepLabHead(
        ASPP(aspp_channels, rates, aspp_keep_prob, head_norm, seeds),
        Decoder(decoder_channels, num_classes, head_norm, seeds),
    )
    sgc_norm = BatchNorm(
        batch_norm_decay or 0.999,
        1e-3,
        scale=False,
        synchronized=synchronized_batch_norm,
        name="pixel_normalization_bn",
    )
    sgc = SelfAttention(num_classes, attention_dim, sgc_norm if attention_v2 else None, seeds, background)
    classifier_seed = seeds()
    model = PseudoSegModel(
        network,
        head,
        sgc,
        num_classes,
        background=background,
        hypercolumn=hypercolumn,
        classifier_keep_prob=classifier_keep_prob or (0.5 if is_xception else 1.0),
        # As the kernels of the backbone.
        classifier_initializer=(
            truncated_normal(0.09, classifier_seed)
            if is_xception
            else tf_keras.initializers.VarianceScaling(
                2.0, "fan_in", "truncated_normal", seed=classifier_seed
            )
        ),
        fine_tune_batch_norm=fine_tune_batch_norm,
        mean_rgb=_MEAN_RGB if backbone in ("resnet_v1_50", "resnet_v1_101") else None,
        seed=seeds(),
    )
    _make_variables(model)
    return model


def _make_variables(model: PseudoSegModel) -> None:
    """Runs every part once on the smallest image, so that all variables exist before a checkpoint is read."""
    images = tf.zeros([1, 33, 33, 3])
    model(images)
    end_points = model.features(images, training=False)
    image_logits, weights = model.classify(end_points)
    cam = model.grad_cam(end_points, weights, tf.ones_like(image_logits))
    model.sgc(end_points, cam, tf.ones([1, 9, 9]), training=False)

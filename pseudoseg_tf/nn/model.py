"""PseudoSegModel: DeepLabv3+, a one-layer image classifier, Grad-CAM and self-attention."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.deeplab import ASPP, Decoder, DeepLabHead
from pseudoseg_tf.nn.grad_cam import grad_cam
from pseudoseg_tf.nn.layers import BatchNorm, BatchNormFactory, Conv, EndPoints, SeedSequence, resize_mask
from pseudoseg_tf.nn.mobilenet import MobileNetV1
from pseudoseg_tf.nn.resnet import ResNetV1Beta
from pseudoseg_tf.nn.sgc import SelfAttention

Backbone = MobileNetV1 | ResNetV1Beta
_RESNET_UNITS = {"resnet_v1_50_beta": (3, 4, 6, 3), "resnet_v1_101_beta": (3, 4, 23, 3)}


class PseudoSegModel(tf_keras.Model):
    """The network of the paper's Figure 1. Heads and self-attention do not know the backbone.

    ``call`` is the segmentation network alone; the training step uses the parts.

    Args:
        backbone: layer from normalized images to ``EndPoints``.
        head: layer from ``EndPoints`` to ``decoder_logits``.
        sgc: self-attention over hypercolumn features.
        num_classes: C, background (class 0) included.
        hypercolumn: self-attention sees the last two stages, else the last one.
        fine_tune_batch_norm: the backbone trains with batch statistics.
        seed: of the classifier's initializer.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: DeepLabHead,
        sgc: SelfAttention,
        num_classes: int,
        *,
        hypercolumn: bool = True,
        fine_tune_batch_norm: bool = True,
        seed: int = 0,
    ):
        super().__init__(name="pseudoseg")
        self.backbone = backbone
        self.head = head
        self.sgc_attention = sgc
        self.classifier = tf_keras.layers.Dense(
            num_classes - 1,
            kernel_initializer=tf_keras.initializers.VarianceScaling(
                2.0, "fan_in", "truncated_normal", seed=seed
            ),
            # Logits feed a loss and Grad-CAM: float32 under every precision policy.
            dtype="float32",
            name="image_logits",
        )
        self.num_classes = num_classes
        self.fine_tune_batch_norm = fine_tune_batch_norm
        self._hypercolumn = hypercolumn

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalized images [B, H, W, 3] -> float32 decoder_logits [B, (H-1)/4+1, (W-1)/4+1, C]."""
        return self.decode(self.features(images, training=training), training=training)

    @staticmethod
    def normalize(images: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        """Pixels in [0, 255] -> [-1, 1]; where ``valid`` [B, H, W] is 0 the mean pixel, which is 0."""
        return (images * (2.0 / 255.0) - 1.0) * tf.cast(valid, tf.float32)[..., tf.newaxis]

    def features(self, images: tf.Tensor, training: bool) -> EndPoints:
        """Backbone pass; its batch norm uses batch statistics only if they are being fine-tuned."""
        images = tf.cast(images, self.compute_dtype)
        return self.backbone(images, training=training and self.fine_tune_batch_norm)

    def decode(self, end_points: EndPoints, training: bool) -> tf.Tensor:
        """End points -> float32 decoder_logits at stride 4."""
        return self.head(end_points, training=training)

    def classify(self, end_points: EndPoints) -> tf.Tensor:
        """End points -> float32 image_logits [B, C-1]."""
        return self.classifier(tf.reduce_mean(tf.cast(end_points.last, tf.float32), [1, 2]))

    def grad_cam(self, end_points: EndPoints, image_labels: tf.Tensor) -> tf.Tensor:
        """Class maps [B, h, w, C-1] in [0, 1] of the classes in ``image_labels`` [B, C-1]."""
        return grad_cam(end_points.last, self.classifier, image_labels)

    def sgc(self, end_points: EndPoints, cam: tf.Tensor, valid: tf.Tensor, training: bool) -> tf.Tensor:
        """Refined class scores, float32 sgc_logits [B, h, w, C]; ``valid`` [B, *, *] at any resolution."""
        parts = [end_points.last, end_points.penultimate] if self._hypercolumn else [end_points.last]
        cells = resize_mask(tf.cast(valid, tf.float32), tf.shape(cam)[1:3])
        return self.sgc_attention(tf.concat(parts, -1), cam, cells, training=training)

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
    backbone: str = "mobilenet_v1",
    *,
    output_stride: int = 16,
    atrous_rates: Sequence[int] = (6, 12, 18),
    aspp_channels: int = 256,
    decoder_channels: int = 256,
    attention_dim: int = 128,
    hypercolumn: bool = True,
    width_multiplier: float = 1.0,
    aspp_keep_prob: float = 0.9,
    batch_norm_decay: float = 0.0,
    synchronized_batch_norm: bool = False,
    fine_tune_batch_norm: bool = True,
    seed: int = 0,
) -> PseudoSegModel:
    """A ``PseudoSegModel`` with all its variables made.

    Args:
        num_classes: C, background (class 0) included.
        backbone: "mobilenet_v1", "resnet_v1_50_beta" or "resnet_v1_101_beta".
        atrous_rates: as for output stride 16; doubled at 8.
        batch_norm_decay: 0 for the reference's: 0.9997 (ResNet 0.95, self-attention 0.999).
        synchronized_batch_norm: batch statistics over all replicas.

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
    else:
        network = ResNetV1Beta(_RESNET_UNITS[backbone], output_stride, batch_norms(0.95, 1e-5), seeds)
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
    model = PseudoSegModel(
        network,
        head,
        SelfAttention(num_classes, attention_dim, sgc_norm, seeds),
        num_classes,
        hypercolumn=hypercolumn,
        fine_tune_batch_norm=fine_tune_batch_norm,
        seed=seeds(),
    )
    _make_variables(model)
    return model


def _make_variables(model: PseudoSegModel) -> None:
    """Runs every part once on the smallest image, so that all variables exist before a checkpoint is read."""
    images = tf.zeros([1, 33, 33, 3])
    model(images)
    end_points = model.features(images, training=False)
    model.classify(end_points)
    cam = model.grad_cam(end_points, tf.ones([1, model.num_classes - 1]))
    model.sgc(end_points, cam, tf.ones([1, 33, 33]), training=False)

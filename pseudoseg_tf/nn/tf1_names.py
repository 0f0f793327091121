"""The names that the variables of a model have in a TensorFlow 1 checkpoint of DeepLab or of the authors' code."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from pseudoseg_tf.nn.layers import BatchNorm, ConvBatchNorm, DepthwiseConv
from pseudoseg_tf.nn.model import PseudoSegModel

# Scopes of the decoder's logits, the last layer of the segmentation network.
DECODER_LOGITS = "logits/semantic"


def tf1_names(model: PseudoSegModel) -> dict[str, tf.Variable]:
    """Every variable of the network under its TensorFlow 1 name, without ":0".

    Shapes agree but for the classifier's kernel, a [1, 1, F, K] convolution there and [F, K] here. Random
    states of dropout have no name: TensorFlow 1 checkpoints hold none.
    """
    return dict(_named_variables(model))


def classifier_scope(model: PseudoSegModel) -> str:
    """Scope of the image-level classifier, such as "xception_65/logits"."""
    return f"{model.backbone.scope}/logits"


def _named_variables(model: PseudoSegModel) -> Iterator[tuple[str, tf.Variable]]:
    for scope, unit in (*model.backbone.units(), *model.head.units()):
        yield from _unit(scope, unit)
    sgc = model.sgc_attention
    biased = {
        DECODER_LOGITS: model.head.decoder.logits,
        classifier_scope(model): model.classifier,
        "hyper_column/key": sgc.key,
        "hyper_column/query": sgc.query,
        "pixel_normalization": sgc.pixel_normalization,
    }
    for scope, layer in biased.items():
        yield f"{scope}/weights", layer.kernel
        if layer.use_bias:
            yield f"{scope}/biases", layer.bias
    if sgc.batch_norm is not None:
        yield from _batch_norm("pixel_normalization", sgc.batch_norm)


def _unit(scope: str, unit: ConvBatchNorm) -> Iterator[tuple[str, tf.Variable]]:
    if isinstance(unit.conv, DepthwiseConv):
        yield f"{scope}/depthwise_weights", unit.conv.depthwise_kernel
    else:
        yield f"{scope}/weights", unit.conv.kernel
    yield from _batch_norm(scope, unit.batch_norm)


def _batch_norm(scope: str, layer: BatchNorm) -> Iterator[tuple[str, tf.Variable]]:
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        variable = getattr(layer, name)
        if variable is not None:
            yield f"{scope}/BatchNorm/{name}", variable

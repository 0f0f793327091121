"""What one pass of a network costs, counted in its graph."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.nn.model import PseudoSegModel

# What a backward pass reads again, besides the products: normalizations, activations, sums, resizes.
_KEPT = {"FusedBatchNormV3", "Relu", "Relu6", "AddV2", "ConcatV2", "ResizeBilinear"}


class PassCost(NamedTuple):
    """Of one image: multiplications with addition, and bytes of float32 that a training pass keeps."""

    multiply_accumulates: int
    activation_bytes: int


def count_pass(model: tf_keras.Model, height: int, width: int) -> PassCost:
    """Traces ``model(images, training=True)`` for one image of that size; computes nothing.

    Products of convolutions and matrices are counted, elementwise operations are not. The bytes are the outputs of
    the operations that a backward pass reads: an estimate, for a compiler may keep fewer.
    """
    forward = tf.function(lambda images: model(images, training=True))
    graph = forward.get_concrete_function(tf.TensorSpec([1, height, width, 3])).graph
    return _count(graph.get_operations())


def count_parts(model: PseudoSegModel, height: int, width: int) -> dict[str, PassCost]:
    """The cost of each part of a pass, by name; backbone, ASPP and decoder together are ``count_pass``.

    Grad-CAM is counted without the derivative of the classifier, a product of the size of the classifier.
    """
    ends: dict[str, int] = {}

    def forward(images: tf.Tensor) -> None:
        graph = tf.compat.v1.get_default_graph()

        def end(part: str) -> None:
            ends[part] = len(graph.get_operations())

        end_points = model.features(images, training=True)
        end("backbone")
        aspp = model.head.aspp(end_points.last, training=True)
        end("ASPP")
        logits = model.head.decoder(aspp, end_points.skip, training=True)
        end("decoder")
        image_logits = model.classifier(tf.reduce_mean(tf.cast(end_points.last, tf.float32), [1, 2]))
        end("image classifier")
        weights = tf.zeros([image_logits.shape[-1], end_points.last.shape[-1]])
        cam = model.grad_cam(end_points, weights, tf.ones_like(image_logits))
        end("Grad-CAM")
        model.sgc(end_points, cam, tf.ones(logits.shape[:3]), training=True)
        end("self-attention (SGC)")

    traced = tf.function(forward).get_concrete_function(tf.TensorSpec([1, height, width, 3]))
    operations = traced.graph.get_operations()
    begins = [0, *ends.values()]
    return {
        part: _count(operations[begin:end])
        for begin, (part, end) in zip(begins[:-1], ends.items(), strict=True)
    }


def _count(operations: Iterable[tf.Operation]) -> PassCost:
    products = kept = 0
    for operation in operations:
        summed = _summed(operation)
        if summed or operation.type in _KEPT:
            outputs = math.prod(operation.outputs[0].shape)
            kept += 4 * outputs
            products += summed * outputs
    return PassCost(products, kept)


def _summed(operation: tf.Operation) -> int:
    """How many products each entry of an operation's output sums; 0: it is no product."""
    if operation.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum"):
        return 0
    first, second = (entry.shape for entry in operation.inputs)
    if operation.type == "Conv2D":
        return math.prod(second[:3])
    if operation.type == "DepthwiseConv2dNative":
        return math.prod(second[:2])
    if operation.type == "MatMul":
        return second[0]
    if operation.type == "BatchMatMulV2":
        return first[-2] if operation.get_attr("adj_x") else first[-1]
    terms, _, output = operation.get_attr("equation").decode().partition("->")
    names = terms.split(",")
    sizes = dict(zip("".join(names), [*first, *second], strict=True))
    return math.prod(size for name, size in sizes.items() if name not in output)

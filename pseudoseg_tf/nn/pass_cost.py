"""What one pass of a network costs, counted in its graph."""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from pseudoseg_tf._keras import tf_keras

# What a backward pass reads again, besides the products: normalizations, activations, sums, resizes.
_KEPT = {"FusedBatchNormV3", "Relu", "Relu6", "AddV2", "ConcatV2", "ResizeBilinear"}
# Products, and the entries of the second operand that each output sums over, from that operand's shape.
_PRODUCTS = {
    "Conv2D": lambda kernel: math.prod(kernel[:3]),
    "DepthwiseConv2dNative": lambda kernel: math.prod(kernel[:2]),
    "MatMul": lambda matrix: matrix[0],
}


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
    operations = forward.get_concrete_function(tf.TensorSpec([1, height, width, 3])).graph.get_operations()
    products = kept = 0
    for operation in operations:
        if operation.type in _PRODUCTS or operation.type in _KEPT:
            outputs = math.prod(operation.outputs[0].shape)
            kept += 4 * outputs
            if operation.type in _PRODUCTS:
                products += outputs * _PRODUCTS[operation.type](operation.inputs[1].shape)
    return PassCost(products, kept)

"""The cost of a pass: counted by hand on small layers, and against the published figure of a whole network."""

from __future__ import annotations

import dataclasses

import pytest

from pseudoseg_tf._keras import tf_keras
from pseudoseg_tf.config import ModelConfig
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.nn.pass_cost import PassCost, count_parts, count_pass


def test_products_and_bytes_by_hand() -> None:
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False),
            tf_keras.layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            tf_keras.layers.ReLU(),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(5, use_bias=False),
        ]
    )
    cells = 4 * 6
    expected = PassCost(
        multiply_accumulates=cells * 4 * 9 * 3 + cells * 4 * 9 + 4 * 5,
        activation_bytes=4 * (cells * 4 * 3 + 5),
    )
    assert count_pass(model, 8, 12) == expected


def test_nothing_is_computed_or_updated() -> None:
    model = build_model(3, **dataclasses.asdict(ModelConfig(width_multiplier=0.25, aspp_channels=8)))
    before = [variable.numpy().copy() for variable in model.variables]
    small, large = count_pass(model, 33, 33), count_pass(model, 65, 65)
    assert large.multiply_accumulates > 3 * small.multiply_accumulates
    assert all(
        (variable.numpy() == value).all() for variable, value in zip(model.variables, before, strict=True)
    )


@pytest.mark.slow
def test_xception_as_deeplab_publishes_it() -> None:
    """DeepLab's model zoo: 54.17 billion multiply-adds for Xception-65 at output stride 16 and 513x513."""
    model = build_model(21, **dataclasses.asdict(ModelConfig(backbone="xception_65")))
    assert count_pass(model, 513, 513).multiply_accumulates == pytest.approx(54.17e9, rel=0.005)


def test_parts_add_up_and_attention_by_hand() -> None:
    config = ModelConfig(width_multiplier=0.25, aspp_channels=8, decoder_channels=8, attention_dim=8)
    model = build_model(3, **dataclasses.asdict(config))
    parts = count_parts(model, 65, 97)
    whole = count_pass(model, 65, 97)
    predicting = [parts[name].multiply_accumulates for name in ("backbone", "ASPP", "decoder")]
    assert sum(predicting) == whole.multiply_accumulates
    cells, features, classes = 5 * 7, 256, 2
    assert parts["image classifier"].multiply_accumulates == features * classes
    assert parts["Grad-CAM"].multiply_accumulates == cells * features * classes
    # Queries and keys of the last stage and the one before, their products, the propagated scores, 1x1.
    hypercolumn = features + 128
    attention = 2 * cells * hypercolumn * 8 + cells * cells * 8 + cells * cells * classes + cells * 3 * 3
    assert parts["self-attention (SGC)"].multiply_accumulates == attention

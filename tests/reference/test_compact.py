"""A few of the authors' numbers for ResNet-50, kept here: one training step and one forward pass, on seed 1."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import flags, formula, network

SEED = 1
FLAGS = (
    "--model_variant=resnet_v1_50_beta",
    "--train_crop_size=97,97",
    "--train_batch_size=2",
    "--weight_decay=1e-4",
)
LOSSES = {
    "loss_consistency": 3.2488713,
    "LOSS/semantic_merged_logits/mul_1": 3.6298385,
    "LOSS/self-attention_self-attention_logits/mul_1": 3.1133454,
    "loss_cls": 0.8566488,
    "regularization_loss": 2.8941987,
    "total_loss": 13.7429028,
}
# L2 norms; the first group at 0.1 %, the second, behind batch statistics, at 2 %.
STABLE_NORMS = {
    "logits/semantic/biases": 1.279418,
    "resnet_v1_50/logits/weights": 2.637454,
    "hyper_column/key/weights": 0.3999478,
    "pixel_normalization/weights": 0.3941716,
    "pixel_normalization/BatchNorm/beta": 0.5788125,
}
NORMS = {
    "resnet_v1_50/conv1_1/weights": 9.784738,
    "resnet_v1_50/block2/unit_2/bottleneck_v1/conv2/weights": 5.37269,
    "resnet_v1_50/block4/unit_3/bottleneck_v1/conv3/BatchNorm/gamma": 0.2367849,
    "aspp1_depthwise/depthwise_weights": 0.1532079,
    "concat_projection/weights": 3.190798,
    "decoder/decoder_conv1_pointwise/BatchNorm/beta": 0.5697035,
}


@pytest.fixture(scope="module")
def step() -> network.Step:
    return network.training_step(flags.configuration(FLAGS), SEED)


@pytest.mark.parametrize("name", LOSSES)
def test_losses(step: network.Step, name: str) -> None:
    assert float(step.quantities[f"scalar:{name}"]()) == pytest.approx(LOSSES[name], abs=1e-4)


def test_gradients(step: network.Step) -> None:
    assert float(step.quantities["scalar:global_norm"]()) == pytest.approx(52.04508, rel=0.01)
    for norms, tolerance in ((STABLE_NORMS, 1e-3), (NORMS, 0.02)):
        for name, norm in norms.items():
            assert step.norms[name] == pytest.approx(norm, rel=tolerance), name


def test_pseudo_label(step: network.Step) -> None:
    labels = np.asarray(step.quantities["pseudo_label"]())
    first = [
        0.006198,
        0.015532,
        0.209409,
        0.039211,
        0.064944,
        0.026731,
        0.016111,
        0.059741,
        0.007814,
        0.01149,
    ]
    np.testing.assert_allclose(labels[0, 3, 5, :10], first, atol=3e-4)
    counts = [73, 6, 22, 14, 17, 28, 15, 3, 68, 31, 8, 277, 45, 70, 24, 35, 99, 92, 3, 188, 132]
    ours = np.bincount(labels.argmax(-1).ravel(), minlength=21)
    # 99.8 % of 1250 pixels.
    assert np.abs(ours - counts).sum() <= 5


def test_self_attention_of_the_weak_view(step: network.Step) -> None:
    logits = np.asarray(step.quantities["att_logits_weak_raw"]())
    np.testing.assert_allclose(
        logits[0, 2, 3, :5], [1.008262, 0.170553, 0.708518, 0.043314, 0.022468], atol=2e-4
    )


def test_statistics_after_the_step(step: network.Step) -> None:
    mean = step.quantities["bn:pixel_normalization/BatchNorm/moving_mean:sequential"]()
    np.testing.assert_allclose(mean[:4], [0.11433674, 0.14674737, 0.1435841, -0.02607914], atol=1e-4)
    variance = step.quantities["bn:resnet_v1_50/conv1_1/BatchNorm/moving_variance:sequential"]()
    np.testing.assert_allclose(variance[:4], [0.944045, 1.1500134, 0.92018145, 0.634104], atol=1e-4)


def test_forward_pass() -> None:
    model = network.formula_model(flags.configuration(FLAGS))
    quantities = network.forward(model, formula.evaluation_images(SEED))
    logits = np.asarray(quantities["logits"]())
    np.testing.assert_allclose(logits[0, 3, 4, :4], [2.876456, -5.849925, -1.470225, -1.108769], atol=1e-4)
    image_logits = np.asarray(quantities["cls_logits"]())
    np.testing.assert_allclose(image_logits[1, :4], [1.647925, 1.391007, -4.326834, 2.100533], atol=1e-4)

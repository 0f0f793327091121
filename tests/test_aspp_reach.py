import dataclasses

import pytest

from pseudoseg_tf import config_io
from pseudoseg_tf.aspp_reach import reach_notes
from pseudoseg_tf.config import Config
from pseudoseg_tf.folder_comparison import FEW_STEPS
from pseudoseg_tf.nn.model import build_model
from pseudoseg_tf.presets import PRESETS, preset


def of(*overrides: str) -> list[str]:
    return reach_notes(config_io.apply_overrides(Config(), overrides))


@pytest.mark.parametrize(
    ("overrides", "beyond", "fitting"),
    [
        (["data.crop_size=129"], "rates 12,18,", "2,3,5"),
        (["data.crop_size=193"], "rate 18,", "2,5,7"),
        (["data.crop_size=257"], "rate 18,", "3,6,9"),
        (["data.crop_size=513,129"], "rates 12,18,", "2,3,5"),
        (["data.crop_size=129", "model.output_stride=8"], "rates 12,18,", "2,3,5"),
        (["data.crop_size=17"], "rates 6,12,18,", "1,1,1"),
        (["data.crop_size=129", "model.atrous_rates=9"], "rate 9,", "5"),
    ],
)
def test_rates_beyond_the_crop_are_named_and_what_fits_is_silent(
    overrides: list[str], beyond: str, fitting: str
) -> None:
    (note,) = of(*overrides)
    assert beyond in note and f"choose model.atrous_rates={fitting}," in note
    assert of(*overrides, f"model.atrous_rates={fitting}") == []


@pytest.mark.parametrize(
    "overrides", [[], ["data.crop_size=321"], ["data.crop_size=129", "model.atrous_rates=8"]]
)
def test_crops_that_are_large_enough_need_no_word(overrides: list[str]) -> None:
    assert of(*overrides) == []


def test_no_preset_leaves_weights_untrained() -> None:
    assert [name for name in PRESETS if reach_notes(preset(name))] == []
    assert of(*FEW_STEPS) == []


@pytest.mark.parametrize("stride", [8, 16])
def test_what_it_says_is_so(stride: int) -> None:
    """The weights of a branch that reaches beyond the crop, other than the middle one, have no gradient."""
    import tensorflow as tf

    config = config_io.apply_overrides(
        Config(),
        [
            *("data.crop_size=49", "model.atrous_rates=3,4", "model.width_multiplier=0.25"),
            *("model.aspp_channels=8", "model.decoder_channels=8", f"model.output_stride={stride}"),
        ],
    )
    (note,) = reach_notes(config)
    assert "rate 4," in note
    model = build_model(3, **dataclasses.asdict(config.model))
    with tf.GradientTape() as tape:
        logits = model(tf.random.stateless_normal([2, *config.data.crop_size, 3], [0, 0]), training=True)
        loss = tf.reduce_sum(logits**2)
    kernels = [branch.depthwise.conv.depthwise_kernel for branch in model.head.aspp.branches]
    gradients = [tf.reduce_max(tf.abs(g), [2, 3]).numpy() for g in tape.gradient(loss, kernels)]
    learns = [(each > 0).sum() for each in gradients]
    assert learns == [9, 1]

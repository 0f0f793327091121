"""The command line of the reference's training program, as a configuration of ours."""

from __future__ import annotations

from collections.abc import Sequence

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config

# Flags whose value is a value of ours.
_SAME = {
    "model_variant": "model.backbone",
    "output_stride": "model.output_stride",
    "multi_grid": "model.multi_grid",
    "attention_dim": "model.attention_dim",
    "att_v2": "model.attention_v2",
    "fine_tune_batch_norm": "model.fine_tune_batch_norm",
    "train_crop_size": "data.crop_size",
    "min_resize_value": "data.min_resize",
    "max_resize_value": "data.max_resize",
    "resize_factor": "data.resize_factor",
    "weight_decay": "train.weight_decay",
    "unlabeled_weight": "pseudo.weight",
    "soft_pseudo_label": "pseudo.soft",
    "pseudo_label_threshold": "pseudo.threshold",
    "logit_norm": "pseudo.normalize",
    "temperature": "pseudo.temperature",
    "top_k_percent_pixels": "train.top_k_percent_pixels",
    "hard_example_mining_step": "train.hard_example_mining_step",
    "upsample_logits": "train.upsample_logits",
    "last_layer_gradient_multiplier": "train.last_layer_multiplier",
    "training_number_of_steps": "train.steps",
    "optimizer": "train.optimizer",
    "adam_learning_rate": "train.adam_learning_rate",
    "adam_epsilon": "train.adam_epsilon",
    "momentum": "train.momentum",
    "learning_policy": "train.learning_policy",
    "base_learning_rate": "train.learning_rate",
    "learning_power": "train.power",
    "end_learning_rate": "train.end_learning_rate",
    "learning_rate_decay_factor": "train.step_decay_factor",
    "learning_rate_decay_step": "train.step_decay_every",
    "slow_start_step": "train.slow_start_steps",
    "slow_start_learning_rate": "train.slow_start_learning_rate",
}
# Flags that must have this value for the numbers to be comparable, or none in particular.
_FIXED = {
    "decoder_output_stride": "4",
    "num_clones": "1",
    "dataset": "pascal_voc_seg",
    "last_layers_contain_logits_only": "true",
    "drop_path_keep_prob": "1.0",
    "clone_on_cpu": None,
    "save_summaries_images": None,
    "train_logdir": None,
    "dataset_dir": None,
}
# The reference's name of each stage, counted from the last one.
_STAGES = {
    "xception_65": {"16": 1, "15": 2, "14": 3, "13": 4, "8": 5, "4": 6},
    "resnet": {"16": 1, "15": 2, "14": 3, "8": 4},
}


def configuration(flags: Sequence[str]) -> Config:
    """The configuration with which this package computes what the reference computes under ``flags``.

    Args:
      flags: "--name=value"; a flag that occurs several times is a list.

    Raises:
      ValueError: a flag that is not known, or a value that has no counterpart here.
      UserError: the values do not fit together.
    """
    given: dict[str, list[str]] = {}
    for flag in flags:
        name, _, value = flag.removeprefix("--").partition("=")
        given.setdefault(name, []).append(value)
    overrides = [f"{_SAME[name]}={','.join(values)}" for name, values in given.items() if name in _SAME]

    def last(name: str, default: str) -> str:
        return given.get(name, [default])[-1]

    backbone, stride = last("model_variant", "xception_65"), int(last("output_stride", "16"))
    for name, values in given.items():
        if name in _SAME:
            continue
        value = values[-1]
        if name in _FIXED:
            if _FIXED[name] not in (None, value):
                raise ValueError(f"--{name}={value}: only {_FIXED[name]} has a counterpart")
        elif name == "atrous_rates":
            # Ours are meant for output stride 16.
            rates = [int(rate) * stride / 16 for rate in values]
            if any(rate % 1 for rate in rates):
                raise ValueError(f"--atrous_rates={values}: not a multiple of 2 at output stride {stride}")
            overrides.append("model.atrous_rates=" + ",".join(str(int(rate)) for rate in rates))
        elif name == "att_strides":
            stages = _STAGES["xception_65" if backbone == "xception_65" else "resnet"]
            numbers = [stages[part] for part in value.split(",")]
            if 1 not in numbers:
                raise ValueError(f"--att_strides={value}: Grad-CAM of an earlier stage has no counterpart")
            overrides.append("model.hypercolumn=" + ",".join(map(str, numbers)))
        elif name == "decay_steps":
            overrides.append(f"train.decay_steps={float(value):.0f}")
        elif name == "weakly":
            overrides.append("train.mode=" + ("weakly" if value == "true" else "unlabeled"))
        elif name == "train_batch_size":
            overrides += [f"data.batch_labeled={value}", f"data.batch_unlabeled={value}"]
        elif name == "pseudo_src":
            overrides.append("pseudo.source=" + {"att": "sgc", "avg": "fused"}[value])
        elif name == "use_attention":
            overrides += [f"pseudo.use_attention={value}", *(["pseudo.source=decoder"] * (value == "false"))]
        elif name == "cls_with_cls":
            overrides.append("pseudo.classify_labeled=" + {"true": "false", "false": "true"}[value])
        else:
            raise ValueError(f"--{name}: an unknown flag; say in tests/reference/flags.py what it changes")
    overrides.append(f"model.backbone={backbone}")
    # All images pass through the network as they are.
    return config_io.apply_overrides(
        Config(), [*overrides, "model.aspp_keep_prob=1", "model.classifier_keep_prob=1"]
    )

"""Overrides, validation, presets, and config.json."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from pseudoseg_tf import config_io
from pseudoseg_tf.config import Config
from pseudoseg_tf.errors import UserError
from pseudoseg_tf.files import read_json, write_json
from pseudoseg_tf.presets import PRESETS, preset

FOLDER = [f"data.{key}=somewhere" for key in ("images", "masks", "classes", "labeled", "unlabeled", "val")]


def changed(*overrides: str) -> Config:
    return config_io.apply_overrides(Config(), [*FOLDER, *overrides])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=10", 10),
        ("train.learning_rate=1e-3", 0.001),
        ("train.learning_rate=1", 1.0),
        ("pseudo.soft=False", False),
        ("pseudo.share_weak_pass=true", True),
        ("data.images=a=b", "a=b"),
        ("data.images=", ""),
        ("train.mode=weakly", "weakly"),
        ("data.crop_size=257", (257, 257)),
        ("data.crop_size=513, 1025", (513, 1025)),
        ("model.atrous_rates=3", (3,)),
        ("model.atrous_rates=3,6", (3, 6)),
        ("data.eval_scales=0.5", (0.5,)),
        ("data.eval_scales=0.5, 1,1.75", (0.5, 1.0, 1.75)),
        ("data.eval_flip=true", True),
        ("data.eval_window=65", (65, 65)),
        ("data.eval_overlap=0.5", 0.5),
        ("data.exclude_labeled=true", True),
        ("data.splits_dir=lists", "lists"),
        (" train.steps = 10 ", 10),
        ("train.optimizer=adam", "adam"),
        ("train.learning_policy=step", "step"),
        ("train.upsample_logits=false", False),
        ("train.label_weights=0.5, 1,2e-1", (0.5, 1.0, 0.2)),
        ("train.label_weights=2", (2.0,)),
        ("train.label_weights=", ()),
    ],
)
def test_override_is_read_as_its_annotation(override: str, value: Any) -> None:
    config = config_io.apply_overrides(Config(), [override])
    group, name = override.partition("=")[0].strip().split(".")
    found = getattr(getattr(config, group), name)
    assert found == value and type(found) is type(value)
    # Nothing else has changed.
    default = getattr(getattr(Config(), group), name)
    assert dataclasses.replace(getattr(config, group), **{name: default}) == getattr(Config(), group)


def test_last_override_of_a_key_counts() -> None:
    assert config_io.apply_overrides(Config(), ["train.steps=1", "train.steps=2"]).train.steps == 2
    assert config_io.parse_overrides(["a.b=1", "a.b=2=3"]) == {"a.b": "2=3"}


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.steps", ["'train.steps'", "KEY=VALUE"]),
        ("train.stpes=3", ["train.stpes", "nearest: train.steps", "learning_rate"]),
        ("trian.steps=3", ["trian", "nearest: train", "pseudo"]),
        ("stesp=3", ["stesp", "GROUP.NAME", "nearest: train.steps"]),
        ("train.steps=ten", ["train.steps", "'ten'", "whole number"]),
        ("train.steps=1.5", ["train.steps", "'1.5'", "whole number"]),
        ("train.steps=99999999999", ["train.steps", "at most 2147483647"]),
        ("pseudo.gamma=nan", ["pseudo.gamma", "'nan'", "finite"]),
        ("pseudo.gamma=", ["pseudo.gamma", "''", "number"]),
        ("pseudo.soft=1", ["pseudo.soft", "'1'", "true or false"]),
        ("train.mode=semi", ["train.mode", "'semi'", "supervised, unlabeled, weakly"]),
        ("data.crop_size=1,2,3", ["data.crop_size", "'1,2,3'", "513,1025"]),
        ("model.atrous_rates=6,x", ["model.atrous_rates", "'6,x'", "6,12,18"]),
        ("train.label_weights=1,x", ["train.label_weights", "'1,x'", "finite numbers such as 0.5,1,2"]),
        ("train.label_weights=1,inf", ["train.label_weights", "'1.0,inf'", "finite numbers"]),
        ("train.label_weights=1,,2", ["train.label_weights", "'1,,2'", "finite numbers"]),
        ("train.optimizer=sgd", ["train.optimizer", "'sgd'", "momentum, adam"]),
        ("train.learning_policy=cosine", ["train.learning_policy", "'cosine'", "poly, step"]),
        ("data.eval_scales=1,big", ["data.eval_scales", "'1,big'", "finite numbers"]),
        ("data.eval_scales=1,,2", ["data.eval_scales", "'1,,2'", "finite numbers"]),
        ("data.eval_scales=inf", ["data.eval_scales", "'inf'", "finite numbers"]),
        ("data.exclude_labeled=1", ["data.exclude_labeled", "'1'", "true or false"]),
        ("data.eval_flip=", ["data.eval_flip", "''", "true or false"]),
        ("data.eval_flip=0", ["data.eval_flip", "'0'", "true or false"]),
        ("data.eval_flip=-1", ["data.eval_flip", "'-1'", "true or false"]),
    ],
)
def test_wrong_override_is_named_with_what_is_allowed(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        config_io.apply_overrides(Config(), [override])
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["model.output_stride=32"], "model.output_stride"),
        (["model.atrous_rates=6,0"], "model.atrous_rates"),
        (["model.aspp_channels=0"], "model.aspp_channels"),
        (["model.decoder_channels=0"], "model.decoder_channels"),
        (["model.attention_dim=-1"], "model.attention_dim"),
        (["model.width_multiplier=0"], "model.width_multiplier"),
        (["model.width_multiplier=0.5", "model.backbone=resnet_v1_50_beta"], "model.width_multiplier"),
        (["model.aspp_keep_prob=0"], "model.aspp_keep_prob"),
        (["model.aspp_keep_prob=1.1"], "model.aspp_keep_prob"),
        (["model.batch_norm_decay=1"], "model.batch_norm_decay"),
        (["init.weights=imagenet", "model.backbone=resnet_v1_50_beta"], "init.weights"),
        (["data.min_resize=-1"], "data.min_resize"),
        (["data.max_resize=-1"], "data.max_resize"),
        (["data.max_resize=513"], "data.max_resize"),
        (["data.min_resize=257", "data.max_resize=256"], "data.max_resize"),
        (["data.min_resize=8", "data.max_resize=16", "data.resize_factor=16"], "data.max_resize"),
        (["data.resize_factor=16"], "data.resize_factor"),
        (["data.min_resize=257", "data.resize_factor=-1"], "data.resize_factor"),
        (["init.weights=w.npz", "model.backbone=xception_65"], "init.weights"),
        (["init.last_layers=true"], "init.last_layers"),
        (["init.last_layers=true", "init.weights=w.npz"], "init.last_layers"),
        (["data.crop_size=512"], "data.crop_size"),
        (["data.crop_size=1"], "data.crop_size"),
        (["data.eval_size=513,0"], "data.eval_size"),
        (["data.eval_batch=2"], "data.eval_batch"),
        (["data.eval_batch=0", "data.eval_size=513"], "data.eval_batch"),
        (["data.eval_scales=0"], "data.eval_scales"),
        (["data.eval_scales=1,-0.5"], "data.eval_scales"),
        (["data.eval_scales=4.1,1"], "data.eval_scales"),
        (["data.eval_window=64"], "data.eval_window"),
        (["data.eval_window=0,65"], "data.eval_window"),
        (["data.eval_overlap=-0.1"], "data.eval_overlap"),
        (["data.eval_overlap=0.96"], "data.eval_overlap"),
        (["data.batch_labeled=0"], "data.batch_labeled"),
        (["data.batch_unlabeled=0"], "data.batch_unlabeled"),
        (["data.min_scale=0"], "data.min_scale"),
        (["data.min_scale=3"], "data.max_scale"),
        (["data.scale_step=0"], "data.scale_step"),
        (["data.scale_step=1e-10"], "data.scale_step"),
        (["data.jitter_strength=-1"], "data.jitter_strength"),
        (["data.jitter_strength=2.1"], "data.jitter_strength"),
        (["data.cutout=-1"], "data.cutout"),
        (["data.seed=-1"], "data.seed"),
        (["data.images="], "data.images"),
        (["data.unlabeled="], "data.unlabeled"),
        (["data.classes="], "data.classes"),
        (["data.palette=colors.txt", "data.source=tfds", "data.name=x"], "data.palette"),
        (["data.binary_masks=true", "data.source=tfds", "data.name=x"], "data.binary_masks"),
        (["data.binary_masks=true", "data.palette=colors.txt"], "data.binary_masks"),
        (["data.source=tfds"], "data.name"),
        (["data.source=tfrecord", "data.classes="], "data.classes"),
        (["train.steps=0"], "train.steps"),
        (["train.learning_rate=0"], "train.learning_rate"),
        (["train.power=-1"], "train.power"),
        (["train.momentum=1"], "train.momentum"),
        (["train.end_learning_rate=-1"], "train.end_learning_rate"),
        (["train.decay_steps=-1"], "train.decay_steps"),
        (["train.step_decay_factor=0"], "train.step_decay_factor"),
        (["train.step_decay_factor=1.1"], "train.step_decay_factor"),
        (["train.step_decay_every=0"], "train.step_decay_every"),
        (["train.slow_start_steps=-1"], "train.slow_start_steps"),
        (["train.slow_start_steps=30000"], "train.slow_start_steps"),
        (["train.slow_start_learning_rate=-1"], "train.slow_start_learning_rate"),
        (["train.adam_learning_rate=0"], "train.adam_learning_rate"),
        (["train.adam_epsilon=0"], "train.adam_epsilon"),
        (["train.last_layer_multiplier=-1"], "train.last_layer_multiplier"),
        (["train.label_weights=1,-1"], "train.label_weights"),
        (["train.label_weights=0,0"], "train.label_weights"),
        (["train.top_k_percent_pixels=0"], "train.top_k_percent_pixels"),
        (["train.top_k_percent_pixels=25"], "train.top_k_percent_pixels"),
        (["train.hard_example_mining_step=-1"], "train.hard_example_mining_step"),
        (["model.atrous_rates="], "model.atrous_rates"),
        (["train.weight_decay=-1"], "train.weight_decay"),
        (["train.backbone_multiplier=-1"], "train.backbone_multiplier"),
        (["train.classification_weight=-1"], "train.classification_weight"),
        (["train.attention_weight=-1"], "train.attention_weight"),
        (["train.seed=-1"], "train.seed"),
        (["train.checkpoint_every=0"], "train.checkpoint_every"),
        (["train.evaluate_every=0"], "train.evaluate_every"),
        (["train.log_every=0"], "train.log_every"),
        (["data.max_bad_examples=-1"], "data.max_bad_examples"),
        (["train.pictures_every=0"], "train.pictures_every"),
        (["train.keep=0"], "train.keep"),
        (["train.max_rollbacks=0"], "train.max_rollbacks"),
        (["data.pseudo_labels=masks"], "data.pseudo_labels"),
        (["data.pseudo_labels=masks", "train.mode=supervised", "data.unlabeled="], "data.unlabeled"),
        (
            ["data.pseudo_labels=masks", "train.mode=supervised", "data.repeat_labeled=0"],
            "data.repeat_labeled",
        ),
        (["train.mode=supervised", "data.repeat_labeled=2"], "data.repeat_labeled"),
        (["pseudo.normalize_alone=true"], "pseudo.normalize_alone"),
        (
            ["pseudo.normalize_alone=true", "pseudo.source=decoder", "pseudo.use_attention=false"],
            "pseudo.normalize_alone",
        ),
        (["pseudo.gamma=1.1"], "pseudo.gamma"),
        (["pseudo.temperature=0"], "pseudo.temperature"),
        (["pseudo.threshold=1"], "pseudo.threshold"),
        (["pseudo.weight=-1"], "pseudo.weight"),
        (["pseudo.ramp_steps=-1"], "pseudo.ramp_steps"),
        (["runtime.threads=-1"], "runtime.threads"),
        (["runtime.tpu=local"], "runtime.tpu"),
        (["train.accumulate=0"], "train.accumulate"),
        (["train.accumulate=3"], "data.batch_labeled"),
        (["train.accumulate=4", "data.batch_unlabeled=6"], "data.batch_unlabeled"),
    ],
)
def test_value_out_of_range_is_refused(overrides: list[str], key: str) -> None:
    config = changed(*overrides)
    with pytest.raises(UserError, match=rf"^{key}: found '.*', must be ") as error:
        config_io.validate(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["data.eval_size=513,1025", "data.eval_batch=4"],
        ["data.eval_scales=0.01,4", "data.eval_flip=true"],
        ["data.min_resize=257"],
        ["train.accumulate=2", "train.mode=supervised", "data.batch_unlabeled=1"],
        ["runtime.tpu=local", "runtime.strategy=tpu"],
        ["data.palette=colors.txt", "data.classes="],
        ["data.palette=colors.txt"],
        ["data.palette=colors.txt", "data.classes=", "data.source=tfrecord"],
        ["data.binary_masks=true"],
        ["data.binary_masks=true", "data.source=tfrecord"],
        ["data.min_resize=17", "data.max_resize=17", "data.resize_factor=16"],
        ["data.unlabeled=", "train.mode=supervised"],
        ["data.pseudo_labels=masks", "train.mode=supervised", "data.repeat_labeled=20"],
        ["pseudo.normalize_alone=true", "pseudo.source=sgc"],
        ["data.crop_size=17", "data.min_scale=1", "data.max_scale=1", "data.cutout=0"],
        ["pseudo.gamma=0", "pseudo.weight=0", "train.momentum=0", "train.power=0"],
        ["model.output_stride=8", "model.width_multiplier=0.25", "init.weights=weights.npz"],
        ["init.weights=model.ckpt"],
        ["init.weights=zoo/model.ckpt.index", "init.last_layers=true", "model.backbone=xception_65"],
        ["train.slow_start_steps=29999", "train.slow_start_learning_rate=0", "train.step_decay_factor=1"],
        ["train.label_weights=0,1", "train.top_k_percent_pixels=1e-3", "train.last_layer_multiplier=0"],
    ],
)
def test_valid_configuration_passes(overrides: list[str]) -> None:
    config_io.validate(changed(*overrides))


def test_label_weights_are_one_for_each_class() -> None:
    for overrides in ([], ["train.label_weights=1,2,3"]):
        config_io.validate_for_classes(changed(*overrides), 3)
    with pytest.raises(UserError) as error:
        config_io.validate_for_classes(changed("train.label_weights=1,2"), 3)
    assert str(error.value) == (
        "train.label_weights: found '1.0,2.0' (2 numbers), must be empty or one number for each of the 3 classes"
    )


def test_wrong_type_given_in_python_is_refused() -> None:
    config = changed()
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=1.5))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^train.steps: found '1.5', must be a whole number"):
        config_io.validate(config)


def test_allowed_size_that_is_named_is_allowed() -> None:
    with pytest.raises(UserError, match=r"such as 513,1025$"):
        config_io.validate(changed("data.crop_size=512,1030"))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_valid_once_its_files_are_named(name: str) -> None:
    missing = [f"data.{key}=x" for key in ("images", "masks", "classes", "labeled", "unlabeled", "val")]
    config_io.validate(config_io.apply_overrides(preset(name), missing))
    assert "Command" in (PRESETS[name].__doc__ or "")


@pytest.mark.parametrize("name", sorted(set(PRESETS) - {"folder"}))
def test_preset_of_a_builder_needs_no_more_keys(name: str) -> None:
    config_io.validate(preset(name))


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'shape'.*nearest: shapes;.*voc12"):
        preset("shape")


def test_dict_and_json_round_trip() -> None:
    config = changed(
        "data.crop_size=17,33",
        "model.atrous_rates=1,2,3,4",
        "train.label_weights=1,0.5",
        "data.eval_scales=1,0.1",
    )
    assert config_io.from_dict(config_io.to_dict(config)) == config
    assert config_io.from_dict(json.loads(json.dumps(config_io.to_dict(config)))) == config
    assert config_io.from_dict({}) == Config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trian": {}}, r"^trian: unknown group; nearest: train"),
        ({"train": {"stpes": 1}}, r"^train.stpes: unknown key; nearest: train.steps"),
        ({"train": 3}, r"^train: found 3, must be an object"),
        ({"train": {"steps": "10"}}, r"^train.steps: found '10', must be a whole number"),
        ({"train": {"steps": True}}, r"^train.steps: found 'true', must be a whole number"),
        ({"train": {"learning_rate": float("inf")}}, r"^train.learning_rate: found 'inf', must be a finite"),
        ({"data": {"crop_size": [17]}}, r"^data.crop_size: found '17', must be whole numbers"),
        ({"train": {"label_weights": ["1"]}}, r"^train.label_weights: found '1', must be finite numbers"),
        ({"train": {"label_weights": 1.0}}, r"^train.label_weights: found '1.0', must be finite numbers"),
        ({"data": {"images": None}}, r"^data.images: found 'None', must be text"),
        ({"data": {"eval_scales": 1.0}}, r"^data.eval_scales: found '1.0', must be finite numbers"),
        ({"data": {"eval_scales": ["1"]}}, r"^data.eval_scales: found '1', must be finite numbers"),
        ({"data": {"exclude_labeled": 1}}, r"^data.exclude_labeled: found '1', must be true or false"),
        ({"data": {"splits_dir": None}}, r"^data.splits_dir: found 'None', must be text"),
        ({"data": {"eval_flip": 1}}, r"^data.eval_flip: found '1', must be true or false"),
        ({"train": {"mode": ["weakly"]}}, r"^train.mode: found 'weakly', must be one of"),
    ],
)
def test_from_dict_is_strict(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_io.from_dict(values)


def test_save_and_load(tmp_path: Path) -> None:
    run_dir = tmp_path / "new" / "run"
    config = changed("data.seed=3")
    assert not config_io.check_run_dir(run_dir, config)
    config_io.save(run_dir, "folder", config)
    assert config_io.load(run_dir) == config
    assert config_io.check_run_dir(run_dir, config)
    assert [path.name for path in run_dir.iterdir()] == ["config.json"]
    written = json.loads((run_dir / "config.json").read_text())
    assert written["preset"] == "folder"
    assert written["config"]["data"]["seed"] == 3
    assert written["versions"]["python"] == platform.python_version()
    assert set(written["versions"]) == {"python", "tensorflow", "tf_keras", "numpy", "pseudoseg_tf"}


def test_a_run_directory_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run: .*/file is a file; name a directory"):
        config_io.check_run_dir(tmp_path / "file" / "run", Config())
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=rf"run: nothing can be written into {tmp_path}; take"):
        config_io.check_run_dir(tmp_path / "new" / "run", Config())


def test_load_for_evaluation(tmp_path: Path) -> None:
    config = changed("data.eval_scales=0.5,1", "data.eval_flip=true")
    config_io.save(tmp_path, "folder", config)
    assert config_io.load_for_evaluation(tmp_path) == config
    found = config_io.load_for_evaluation(tmp_path, [1, 2], False)
    assert found == changed("data.eval_scales=1,2")
    assert all(type(scale) is float for scale in found.data.eval_scales)
    found = config_io.load_for_evaluation(tmp_path, window=(65, 33), overlap=0.5)
    assert found == changed(
        "data.eval_scales=0.5,1", "data.eval_flip=true", "data.eval_window=65,33", "data.eval_overlap=0.5"
    )
    for scales, message in {
        (): "found '', must be one or more factors, each greater than 0 and at most 4",
        (1, 0): "found '1.0,0.0', must be one or more",
        (-1,): "found '-1.0', must be one or more",
        (5.0,): "found '5.0', must be one or more",
        ("1",): "found '1', must be finite numbers",
        (float("nan"),): "found 'nan', must be finite numbers",
    }.items():
        with pytest.raises(UserError, match=f"^data.eval_scales: {message}"):
            config_io.load_for_evaluation(tmp_path, scales)


def test_run_goes_on_only_under_its_own_configuration(tmp_path: Path) -> None:
    config_io.save(tmp_path, "folder", changed())
    free = changed(
        *("runtime.jit=true", "train.keep=5", "train.log_every=1", "train.pictures_every=1"),
        *("train.on_nonfinite=rollback", "train.max_rollbacks=9", "data.on_bad_example=skip"),
    )
    config_io.save(tmp_path, "", free)
    assert config_io.load(tmp_path) == free
    assert json.loads((tmp_path / "config.json").read_text())["preset"] == "folder"

    other = changed("train.steps=7", "data.crop_size=17", "data.seed=1", "data.cutout=0", "pseudo.soft=false")
    expected = (
        r"another configuration \(data.crop_size was '513,513', now '17,17'; data.cutout was '50', now '0'; "
        r"data.seed was '0', now '1' and 2 more\)"
    )
    with pytest.raises(UserError, match=expected):
        config_io.save(tmp_path, "folder", other)
    assert config_io.load(tmp_path) == free
    with pytest.raises(UserError, match=r"\(runtime.deterministic was 'false', now 'true'\)"):
        config_io.save(tmp_path, "folder", changed("runtime.deterministic=true"))


def test_invalid_configuration_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^train.steps"):
        config_io.save(tmp_path / "run", "folder", changed("train.steps=0"))
    assert not (tmp_path / "run").exists()


def test_checkpoints_without_configuration_are_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds checkpoints but no config"):
        config_io.save(tmp_path, "folder", changed())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b" " * ((4 << 20) + 1), "more than 4 MiB"),
        (b"[]", 'no "config" object'),
        (b'{"config": {"train": {"stpes": 1}}}', r"config.json: train.stpes: unknown key"),
        (b'{"config": {"train": {"steps": 0}}}', r"config.json: data.images: found ''"),
    ],
)
def test_damaged_config_json(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        config_io.load(tmp_path)
    assert "\n" not in str(error.value)


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config.json here"):
        config_io.load(tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "values.json", {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "values.json"]
